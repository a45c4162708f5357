"""Losses and metrics by their Keras names, one for each output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.objective.automatic import exact
from mpt.objective.outputs import Output

SMART_METRICS = ("accuracy", "acc", "crossentropy", "ce")
"""Names that Keras resolves by the shapes of labels and outputs."""


def by_output(
    value: Any, outputs: list[Output], names: list[str], key: str, resolve: Callable[..., Any]
) -> Any:
    """`value` with `resolve` applied to each entry and the output that it belongs to."""
    if isinstance(value, dict):
        checked_names(value, names, key)
        of = dict(zip(names, outputs, strict=True))
        return {name: resolve(each, of[name], f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        if len(value) != len(outputs):
            raise wrong_number(key, len(value), names)
        return [
            resolve(each, output, f"{key}[{index}]")
            for index, (each, output) in enumerate(zip(value, outputs, strict=True))
        ]
    return resolve(value, outputs[0], key)


def named_loss(loss: Any, output: Output, where: str, **arguments: Any) -> Any:
    """A Keras loss by its name, with `arguments` of its class; anything else as it is."""
    if not isinstance(loss, str) or loss.lower() in ("crossentropy", "ce"):
        return loss
    public = {
        name: value
        for name, value in vars(keras.losses).items()
        if callable(value) and name not in ("Loss", "get", "serialize", "deserialize")
    }
    classes = {name.lower(): value for name, value in public.items() if isinstance(value, type)}
    full = loss
    try:
        if loss not in public:
            full = keras.losses.get(loss).__name__  # a short name, as mse
        known = classes[full.replace("_", "").lower()]
    except (ValueError, KeyError):
        raise ConfigurationError(
            f"Keras has no loss {loss!r}", where=where, value=loss, allowed=sorted(public)
        ) from None
    if "crossentropy" in known.__name__.lower() and output.known_activation() == "linear":
        arguments["from_logits"] = True  # by default Keras takes them for probabilities
    return exact(known, output, **arguments)


def checked_metrics(metrics: Any, names: list[str]) -> Any:
    """`metrics`, where every name in it is one of Keras's or of the model's outputs."""
    if isinstance(metrics, dict):
        checked_names(metrics, names, "metrics")
    elif isinstance(metrics, list | tuple):
        if metrics and len(names) > 1 and len(metrics) != len(names):
            raise wrong_number("metrics", len(metrics), names)
    elif metrics is not None:
        metrics = [metrics]
    for metric in keras.tree.flatten(metrics):
        if not isinstance(metric, str) or metric in SMART_METRICS:
            continue
        try:
            keras.metrics.get(metric)
        except ValueError:
            raise ConfigurationError(
                f"Keras has no metric {metric!r}",
                where="metrics",
                value=metric,
                allowed=sorted(
                    {name for name, value in vars(keras.metrics).items() if callable(value)}
                    - {"Metric", "get", "serialize", "deserialize"}
                    | set(SMART_METRICS)
                ),
            ) from None
    return metrics


def checked_names(value: dict[str, Any], names: list[str], key: str) -> None:
    """Refuse a key of `value` that is no output of the model."""
    for name in value:
        if name not in names:
            raise ConfigurationError(
                f"the model has no output {name!r}",
                where=f"{key}.{name}",
                value=name,
                allowed=names,
            )


def wrong_number(key: str, count: int, names: list[str]) -> ConfigurationError:
    """The error of `count` entries where each of the outputs `names` needs one."""
    return ConfigurationError(
        f"{count} entries for {len(names)} outputs",
        where=key,
        remedy=f"give one for each of {', '.join(names)}",
    )
