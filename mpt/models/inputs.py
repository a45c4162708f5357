"""What the families have in common: the checked input shape and the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import keras


def image_shape(shape: Sequence[int], family: str, smallest: int = 1) -> tuple[int, int, int]:
    """`shape` as (height, width, channels); ConfigurationError where it is something else."""
    if len(shape) != 3:
        raise ConfigurationError(
            f"model {family!r} takes images of (height, width, channels), the data has "
            f"examples of shape {tuple(shape)}",
            where="model",
            remedy="set dataset.shape to a shape with channels, as [28,28,1], or take model=mlp",
        )
    if min(shape[0], shape[1]) < smallest:
        raise ConfigurationError(
            f"model {family!r} needs images of at least {smallest}x{smallest}, "
            f"the data has {shape[0]}x{shape[1]}",
            where="model",
            remedy="take a dataset with larger images or a smaller model, as model=cnn",
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def head(classes: int | None, outputs: int) -> keras.layers.Layer:
    """The output layer, named `head`: softmax over `classes`, or linear with `outputs` units."""
    import keras

    if classes is None:
        return keras.layers.Dense(at_least_one(outputs, "model.outputs"), name="head")
    if classes < 2:
        raise ConfigurationError(
            "there is one class alone, and a softmax over it is always 1",
            where="dataset.classes",
            remedy="give labels of two classes or more, or dataset.classes=null for a regression",
        )
    return keras.layers.Dense(classes, activation="softmax", name="head")


def at_least_one(value: int, where: str) -> int:
    """`value`, or ConfigurationError where it is below 1."""
    if value < 1:
        raise ConfigurationError(f"{value} is below 1", where=where, allowed=["1 or more"])
    return value
