"""Residual networks: the CIFAR family of depth 6n+2, and ResNet-50.

He et al., "Deep Residual Learning for Image Recognition", 2015, sections 4.1 and 4.2. Convolutions
in front of a BatchNormalization have no bias: the normalization would cancel it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError
from mpt.models.inputs import head, image_shape

if TYPE_CHECKING:
    import keras

CIFAR_WIDTHS = (16, 32, 64)
RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    depth: int = 20,
    shortcut: str = "A",
    zero_gamma: bool | None = None,
    name: str = "resnet",
) -> keras.Model:
    """A residual network for small images (depth 6n+2) or for large ones (depth 50).

    Trainable parameters with 10 classes and shortcut A: depth 20: 269,722, 32: 464,154,
    44: 658,586, 56: 853,018, 110: 1,727,962 (the paper's table 6: 0.27M, 0.46M, 0.66M, 0.85M,
    1.7M). Depth 50, which 6n+2 would also admit, is always ResNet-50 with bottlenecks and the
    stride in their 3x3 convolution ("v1.5"): 25,557,032 at 1,000 classes, and 53,120 moving
    statistics.

    Args:
        shape: of one example, (height, width, channels); at least 32x32 at depth 50, else 8x8.
        classes: units of the softmax output; None makes a linear output of `outputs` units.
        outputs: units of a regression's output.
        depth: 50, or 6n+2 as 20, 32, 44, 56, 110.
        shortcut: where the width grows, in the CIFAR family: A pads the input with zero channels,
            as the paper did on CIFAR-10, B projects it by a 1x1 convolution. ResNet-50 takes B.
        zero_gamma: whether each block's last normalization starts with a scale of 0, so that the
            block starts as the identity (Goyal et al., "Accurate, Large Minibatch SGD", 2017,
            section 5.1); null: at depth 50.
        name: of the Keras model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, classes or outputs).

    Raises:
        ConfigurationError: a depth or shortcut that there is not, a shape that is not an image's.
    """
    if shortcut not in ("A", "B"):
        raise ConfigurationError(
            f"there is no shortcut {shortcut!r}", where="model.shortcut", allowed=["A", "B"]
        )
    zero = depth == 50 if zero_gamma is None else zero_gamma
    if depth == 50:
        return _resnet50(image_shape(shape, name, smallest=32), classes, outputs, zero, name)
    if depth < 8 or (depth - 2) % 6:
        raise ConfigurationError(
            f"depth {depth} is neither 50 nor 6n+2",
            where="model.depth",
            allowed=[8, 14, 20, 32, 44, 50, 56, 110, "6n+2"],
        )
    blocks = (depth - 2) // 6
    shape = image_shape(shape, name, smallest=8)
    return _cifar(shape, classes, outputs, blocks, shortcut, zero, name)


def _cifar(
    shape: tuple[int, int, int],
    classes: int | None,
    outputs: int,
    blocks: int,
    shortcut: str,
    zero: bool,
    name: str,
) -> keras.Model:
    import keras

    image = keras.Input(shape, name="image")
    x = _convolution(image, CIFAR_WIDTHS[0], 3, 1, "stem", relu=True)
    for stage, width in enumerate(CIFAR_WIDTHS, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            path = f"stage{stage}_block{block}"
            y = _convolution(x, width, 3, stride, f"{path}_1", relu=True)
            y = _convolution(y, width, 3, 1, f"{path}_2", relu=False, zero=zero)
            if stride == 2 and shortcut == "B":
                x = _convolution(x, width, 1, stride, f"{path}_shortcut", relu=False)
            elif stride == 2:
                x = _padded(x, width, path)
            x = _joined(x, y, path)
    return _finished(image, x, classes, outputs, name)


def _resnet50(
    shape: tuple[int, int, int], classes: int | None, outputs: int, zero: bool, name: str
) -> keras.Model:
    import keras

    image = keras.Input(shape, name="image")
    x = _convolution(image, 64, 7, 2, "stem", relu=True)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (width, blocks) in enumerate(RESNET50_STAGES, start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            path = f"stage{stage}_block{block}"
            y = _convolution(x, width, 1, 1, f"{path}_1", relu=True)
            y = _convolution(y, width, 3, stride, f"{path}_2", relu=True)
            y = _convolution(y, 4 * width, 1, 1, f"{path}_3", relu=False, zero=zero)
            if block == 1:
                x = _convolution(x, 4 * width, 1, stride, f"{path}_shortcut", relu=False)
            x = _joined(x, y, path)
    return _finished(image, x, classes, outputs, name)


def _convolution(
    x: Any,
    filters: int,
    kernel: int,
    stride: int,
    name: str,
    *,
    relu: bool,
    zero: bool = False,
) -> Any:
    """A convolution without bias, its BatchNormalization (of scale 0), a relu where asked."""
    from keras import layers

    x = layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    gamma = "zeros" if zero else "ones"
    x = layers.BatchNormalization(gamma_initializer=gamma, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _padded(x: Any, width: int, path: str) -> Any:
    """Shortcut A: every second pixel of `x`, with zero channels on both sides up to `width`."""
    from keras import layers

    extra = width - x.shape[-1]
    before = extra // 2
    x = layers.AveragePooling2D(1, strides=2, padding="same", name=f"{path}_shortcut")(x)
    # Read as channels first, (width, channels) are the two axes that ZeroPadding2D pads: a plain
    # layer, so that the saved model needs no code of ours.
    return layers.ZeroPadding2D(
        ((0, 0), (before, extra - before)), data_format="channels_first", name=f"{path}_pad"
    )(x)


def _joined(x: Any, y: Any, path: str) -> Any:
    from keras import layers

    return layers.ReLU(name=f"{path}_relu")(layers.Add(name=f"{path}_add")([x, y]))


def _finished(image: Any, x: Any, classes: int | None, outputs: int, name: str) -> keras.Model:
    import keras

    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, head(classes, outputs)(x), name=name)
