"""U-Net: a label for each pixel.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015, with what has become usual since: padding, so that the output has the input's size and nothing
is cropped, and a BatchNormalization after each convolution, which then has no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError
from mpt.models.blocks import check_dropout
from mpt.models.inputs import at_least_one, image_shape

if TYPE_CHECKING:
    import keras


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    width: int = 64,
    depth: int = 4,
    dropout: float = 0.0,
    name: str = "unet",
) -> keras.Model:
    """Pairs of convolutions on the way down, and on the way up beside those of the same size.

    Trainable parameters at width 64 and depth 4, for one channel and two classes: 31,036,546, and
    11,776 moving statistics; for three channels and two classes 31,037,698.

    Args:
        shape: of one example, (height, width, channels), both sides multiples of 2**depth.
        classes: logits of each pixel; None makes a linear output of `outputs` numbers.
        outputs: numbers of each pixel of a regression.
        width: filters at the input's size; each halving of the size doubles them.
        depth: number of halvings.
        dropout: share of units dropped at the end of the way down, in [0, 1).
        name: of the Keras model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, height, width, classes
        or outputs). Its output has no activation.

    Raises:
        ConfigurationError: a shape that is not an image's, or that 2**depth does not divide.
    """
    import keras
    from keras import layers

    width, depth = at_least_one(width, "model.width"), at_least_one(depth, "model.depth")
    check_dropout(dropout)
    sides = image_shape(shape, name)
    _check_halvings(sides, depth)
    image = keras.Input(sides, name="image")
    x, beside = image, []
    for level in range(1, depth + 1):
        x = _pair(x, width * 2 ** (level - 1), f"down{level}")
        beside.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
    x = _pair(x, width * 2**depth, "bottom")
    if dropout:
        x = layers.Dropout(dropout, name="bottom_dropout")(x)
    for level in range(depth, 0, -1):
        filters = width * 2 ** (level - 1)
        x = layers.Conv2DTranspose(
            filters, 2, strides=2, kernel_initializer="he_normal", name=f"up{level}_conv"
        )(x)
        x = layers.Concatenate(name=f"up{level}_join")([beside[level - 1], x])
        x = _pair(x, filters, f"up{level}")
    return keras.Model(image, _head(classes, outputs)(x), name=name)


def _check_halvings(sides: tuple[int, int, int], depth: int) -> None:
    step = 2**depth
    height, width = sides[:2]
    if height % step == 0 and width % step == 0:
        return
    near = [max(step, round(side / step) * step) for side in (height, width)]
    raise ConfigurationError(
        f"images of {height}x{width} cannot be halved {depth} times: {step} does not divide both "
        "sides",
        where="model.depth",
        value=depth,
        allowed=[n for n in range(1, 11) if height % 2**n == width % 2**n == 0],
        remedy=f"set the size of the images, where the dataset has it, to {near[0]}x{near[1]}, or "
        "a smaller depth",
    )


def _pair(x: Any, filters: int, path: str) -> Any:
    """Two convolutions, each with its BatchNormalization and a relu."""
    from keras import layers

    for number in (1, 2):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{path}_{number}_conv",
        )(x)
        x = layers.BatchNormalization(name=f"{path}_{number}_norm")(x)
        x = layers.ReLU(name=f"{path}_{number}_relu")(x)
    return x


def _head(classes: int | None, outputs: int) -> keras.layers.Layer:
    """The output layer, named `head`: a linear one, of whose logits the loss is computed."""
    import keras

    if classes is None:
        return keras.layers.Conv2D(at_least_one(outputs, "model.outputs"), 1, name="head")
    if classes < 2:
        raise ConfigurationError(
            "there is one class alone, and every pixel is of it",
            where="dataset.classes",
            remedy="give labels of two classes or more: the background is one",
        )
    return keras.layers.Conv2D(classes, 1, name="head")
