"""The classic first example: Conv2D 32 3x3 relu, Flatten, Dense with softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpt.models.inputs import at_least_one, head, image_shape

if TYPE_CHECKING:
    import keras


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    filters: int = 32,
    kernel_size: int = 3,
    name: str = "cnn",
) -> keras.Model:
    """A convolution, a flattening and a dense output layer.

    Args:
        shape: of one example, (height, width, channels).
        classes: units of the softmax output; None makes a linear output of `outputs` units.
        outputs: units of a regression's output.
        filters: of the convolution.
        kernel_size: of the convolution, pixels, square, no padding.
        name: of the Keras model.

    Returns:
        A Sequential model from (batch, height, width, channels) to (batch, classes or outputs).

    Raises:
        ConfigurationError: the shape is not an image's, or smaller than the kernel.
    """
    import keras

    kernel = at_least_one(kernel_size, "model.kernel_size")
    return keras.Sequential(
        [
            keras.Input(image_shape(shape, name, smallest=kernel), name="image"),
            keras.layers.Conv2D(
                at_least_one(filters, "model.filters"), kernel, activation="relu", name="conv"
            ),
            keras.layers.Flatten(name="flatten"),
            head(classes, outputs),
        ],
        name=name,
    )
