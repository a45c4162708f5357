"""In which direction the monitored metric improves: as asked, by its name, or as Keras says."""

from collections.abc import Iterable, Iterator

import keras

from mpt.errors import ConfigurationError
from mpt.report.monitor import by_name

_KERAS = {"up": "max", "down": "min"}


def monitored(tag: str, mode: str, metrics: Iterable[keras.Metric] = ()) -> str:
    """Whether a higher or a lower value of `tag` is better: "max" or "min".

    Args:
        tag: as validation/accuracy.
        mode: auto, min or max; auto goes by the name, then by what Keras's metric says of itself.
        metrics: the compiled model's.

    Raises:
        ConfigurationError: there is no such mode, or auto finds no direction.
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
    found = by_name(tag) or _by_metric(tag.rsplit("/", 1)[-1], metrics)
    if found is None:
        raise ConfigurationError(
            f"Whether a higher or a lower {tag} is better is not known.",
            where="monitor_mode",
            allowed=["max", "min"],
            remedy="set monitor_mode=max or monitor_mode=min",
        )
    return found


def _by_metric(name: str, metrics: Iterable[keras.Metric]) -> str | None:
    """What the metric of that name says; of a model with several outputs, behind the output's."""
    for metric in _single(metrics):
        direction = _KERAS.get(getattr(metric, "_direction", None) or "")
        if direction is not None and (name == metric.name or name.endswith(f"_{metric.name}")):
            return direction
    return None


def _single(metrics: Iterable[keras.Metric]) -> Iterator[keras.Metric]:
    """The metrics, those inside of Keras's collections too."""
    for metric in metrics:
        yield metric
        yield from _single(getattr(metric, "metrics", ()))
