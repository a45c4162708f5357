"""In which direction a metric improves."""

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
LOWER_IS_BETTER = (
    "crossentropy",
    "divergence",
    "entropy",
    "error",
    "false_",
    "hinge",
    "loss",
    "mae",
    "mape",
    "mse",
    "msle",
    "perplexity",
    "poisson",
    "rmse",
)


def by_name(tag: str) -> str | None:
    """Whether a higher or a lower value of `tag` is better: "max" or "min"; None: it does not say.

    Args:
        tag: as validation/accuracy.
    """
    name = tag.rsplit("/", 1)[-1].lower()
    if name.endswith("loss"):
        return "min"
    if any(word in name for word in HIGHER_IS_BETTER):
        return "max"
    return "min" if any(word in name for word in LOWER_IS_BETTER) else None
