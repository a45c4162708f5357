"""In which direction a metric improves."""

from mpt.errors import ConfigurationError

HIGHER_IS_BETTER = (
    "acc",
    "auc",
    "cosine_similarity",
    "dice",
    "examples_per_second",
    "f1",
    "fbeta",
    "io_u",
    "iou",
    "precision",
    "r2",
    "recall",
    "sensitivity",
    "specificity",
    "top_k",
    "true_",
)


def monitored(monitor: str, mode: str) -> str:
    """Whether a higher or a lower value of the tag `monitor` is better: "max" or "min".

    Args:
        monitor: a tag, as validation/accuracy.
        mode: auto, min or max; auto goes by the name.
    """
    if mode in ("min", "max"):
        return mode
    if mode != "auto":
        raise ConfigurationError(
            f"there is no mode {mode!r}",
            where="monitor_mode",
            value=mode,
            allowed=["auto", "min", "max"],
        )
    name = monitor.rsplit("/", 1)[-1].lower()
    if name.endswith("loss"):
        return "min"
    return "max" if any(word in name for word in HIGHER_IS_BETTER) else "min"
