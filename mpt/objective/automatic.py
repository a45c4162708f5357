"""The loss and metrics that labels and outputs ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.objective.outputs import Output, fits
from mpt.objective.shapes import but_for_one

MOST_CLASSES = 1024
"""For which the metrics count every pair of a label and a prediction: 4 MiB."""


def kind_of(output: Output, label: Any, classes: int | None) -> str:
    """What is learned at `output`: sparse, binary, categorical or regression.

    Raises:
        ConfigurationError: the label does not fit the output.
    """
    out, y = output.shape, tuple(label.shape)[1:]
    units = out[-1] if out else 1
    if label.dtype.is_floating:
        if not (fits(y, out) or but_for_one(y, out)):
            raise _misfit(output, y)
        softmax = units != 1 and output.activation() == "softmax"
        return "categorical" if softmax else "regression"
    if units == 1 and (fits(y, out) or fits(y, out[:-1])):
        if classes is not None and classes > 2:
            raise ConfigurationError(
                f"the output {output.name!r} has one unit, the labels are of {classes} classes",
                where="model",
                remedy=f"give the model {classes} outputs, or name a loss for a regression, "
                "as loss=mean_squared_error",
            )
        return "binary"
    if fits(y, out):
        activation = output.activation()
        if activation not in ("softmax", "sigmoid"):
            raise ConfigurationError(
                f"integer labels of shape {y} meet an output {output.name!r} of the same shape",
                where="loss",
                remedy="name the loss, as loss=mean_squared_error",
            )
        return "categorical" if activation == "softmax" else "binary"
    if not (fits(y, out[:-1]) or fits(y, (*out[:-1], 1))):
        raise _misfit(output, y)
    if classes is not None and units is not None and units < classes:
        raise ConfigurationError(
            f"the output {output.name!r} has {units} units, the labels are of {classes} classes",
            where="model",
            remedy=f"give the model {classes} outputs, or correct dataset.classes",
        )
    return "sparse"


def _misfit(output: Output, label: tuple[int | None, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"the output {output.name!r} has the shape {output.shape}, its labels {label}",
        where="model",
        remedy="change the model's output (model.outputs), or name a loss that takes both",
    )


def loss_of(output: Output, kind: str, **arguments: Any) -> keras.losses.Loss:
    """The loss of one output; `arguments` are further ones of its class."""
    if kind == "regression":
        return exact(keras.losses.MeanSquaredError, output, **arguments)
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy,
        "categorical": keras.losses.CategoricalCrossentropy,
        "binary": keras.losses.BinaryCrossentropy,
    }
    return exact(losses[kind], output, from_logits=_from_logits(output, kind), **arguments)


def metrics_of(output: Output, label: Any, classes: int | None) -> list[Any]:
    """Metrics of one output; none where labels and output tell of no usual task."""
    try:
        kind = kind_of(output, label, classes)
        logits = kind == "binary" and _from_logits(output, kind)
    except ConfigurationError:
        return []
    if kind == "regression":
        return ["mean_absolute_error"]
    threshold = 0.0 if logits else 0.5
    overlap = _overlap(output, kind, threshold)
    if kind == "binary":
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold), *overlap]
    if kind == "categorical":
        return [keras.metrics.CategoricalAccuracy(name="accuracy"), *overlap]
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy"), *overlap]


def _overlap(output: Output, kind: str, threshold: float) -> list[keras.metrics.Metric]:
    """The mean over the classes of intersection over union, where each pixel has a class.

    In float32: Keras's default of 32 bits of integer would cut weights, and ends at 2**31 pixels.
    """
    *places, units = output.shape or (None,)
    if len(places) < 2 or units is None or units > MOST_CLASSES:
        return []
    about = {"name": "mean_iou", "dtype": "float32"}
    if kind == "binary":
        binary = keras.metrics.BinaryIoU(target_class_ids=(0, 1), threshold=threshold, **about)
        return [binary] if units == 1 else []
    if kind == "categorical":
        return [keras.metrics.OneHotMeanIoU(num_classes=units, **about)]
    return [keras.metrics.MeanIoU(num_classes=units, sparse_y_pred=False, **about)]


def _from_logits(output: Output, kind: str) -> bool:
    return output.activation() != ("sigmoid" if kind == "binary" else "softmax")


def exact(loss: Callable[..., keras.losses.Loss], output: Output, **arguments: Any) -> Any:
    """The loss, in float64 where the output is; Keras would cast it to float32."""
    if output.dtype == "float64":
        arguments["dtype"] = "float64"
    return loss(**arguments)
