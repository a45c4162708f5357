"""RandAugment (Cubuk et al., 2019) as functions of a seed, in TensorFlow, on uint8 images.

The operations and their magnitudes are torchvision's, which took them from the paper's own code;
each does what Pillow does. Keras's layer of that name draws from a state of its own, so that a run
could not go on at a place, and computes every operation to choose one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

LARGEST = 30
"""Magnitude."""

GREY = (19595, 38470, 7471)
"""Red, green and blue in an image's luma, of 65536: Pillow's."""


def augmented(image: tf.Tensor, seed: tf.Tensor, operations: int, magnitude: int) -> tf.Tensor:
    """`image` after `operations` operations drawn with `seed`, one after the other.

    Args:
        image: uint8 (height, width, 1 or 3), of known shape.
        seed: int64 (2,).
        operations: 0 or more.
        magnitude: 0 to 30, of all of them.
    """
    import tensorflow as tf

    choices = ways(magnitude, image.shape[0], image.shape[1])
    drawn = tf.random.stateless_uniform([operations], seed, 0, len(choices), tf.int32)
    shape = image.shape
    for index in range(operations):
        image = tf.switch_case(drawn[index], [partial(do, image) for do in choices])
        image.set_shape(shape)
    return image


def ways(magnitude: int, height: int, width: int) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """The fourteen operations, each two times: where it has a direction, once in each."""
    share = magnitude / LARGEST
    import tensorflow as tf

    found: list[Callable[[tf.Tensor], tf.Tensor]] = []
    for sign in (1, -1):
        lean, factor = sign * 0.3 * share, 1 + sign * 0.9 * share
        right, down = (sign * int(150 / 331 * side * share) for side in (width, height))
        found += [
            tf.identity,
            partial(affine, matrix=(1, lean, 0, 0, 1, 0)),
            partial(affine, matrix=(1, 0, 0, lean, 1, 0)),
            partial(affine, matrix=(1, 0, -right, 0, 1, 0)),
            partial(affine, matrix=(1, 0, 0, 0, 1, -down)),
            partial(rotate, degrees=sign * 30 * share),
            partial(brightness, factor=factor),
            partial(color, factor=factor),
            partial(contrast, factor=factor),
            partial(sharpness, factor=factor),
            partial(posterize, bits=8 - round(4 * share)),
            partial(solarize, threshold=255 * (1 - share)),
            autocontrast,
            equalize,
        ]
    return found


def affine(image: tf.Tensor, matrix: tuple[float, ...]) -> tf.Tensor:
    """At (x, y) what is at (ax + by + c, dx + ey + f) of `image`, black outside of it.

    The coordinates are those of the pixels' middles, from the upper left corner, and the nearest
    pixel is taken.
    """
    import tensorflow as tf

    a, b, c, d, e, f = matrix
    # TensorFlow counts the coordinates from the middle of the first pixel.
    row = [a, b, (a + b - 1) / 2 + c, d, e, (d + e - 1) / 2 + f, 0, 0]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.constant([row], tf.float32),
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def rotate(image: tf.Tensor, degrees: float) -> tf.Tensor:
    """`image` turned about its middle, against the clock."""
    y, x = image.shape[0] / 2, image.shape[1] / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return affine(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Black at 0, `image` at 1."""
    return _blended(0, image, factor)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Grey at 0, `image` at 1."""
    import tensorflow as tf

    if image.shape[2] == 1:
        return image
    planes = tf.transpose(image, [2, 0, 1])  # what has one value a pixel is fast so
    return tf.transpose(_blended(_grey(image), planes, factor), [1, 2, 0])


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """At 0 the mean grey, `image` at 1."""
    import tensorflow as tf

    pixels = image.shape[0] * image.shape[1]
    total = tf.reduce_sum(tf.cast(_grey(image), tf.int64))
    return _blended((2 * total + pixels) // (2 * pixels), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Smoothed at 0, `image` at 1; the border stays."""
    import tensorflow as tf

    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    whole = tf.cast(image, tf.float32)
    sums = whole[:-2] + whole[1:-1] + whole[2:]
    sums = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:] + 4 * whole[1:-1, 1:-1]
    smooth = tf.floor((sums + 6.5) * (1 / 13))
    inner = _blended(smooth, image[1:-1, 1:-1], factor)
    rows = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], 1)
    return tf.concat([image[:1], rows, image[-1:]], 0)


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """The upper `bits` bits of each value."""
    import tensorflow as tf

    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def solarize(image: tf.Tensor, threshold: float) -> tf.Tensor:
    """Values from `threshold` on turned into their opposite."""
    import tensorflow as tf

    turned = tf.cast(image >= math.ceil(threshold), tf.uint8)
    return tf.bitwise.bitwise_xor(image, 255 * turned)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to 0 to 255; one of a single value stays."""
    import tensorflow as tf

    planes = tf.cast(tf.transpose(image, [2, 0, 1]), tf.float32)
    low = tf.reduce_min(planes, [1, 2], keepdims=True)
    high = tf.reduce_max(planes, [1, 2], keepdims=True)
    stretched = tf.floor(255 * (planes - low) / tf.maximum(high - low, 1))
    planes = tf.where(high > low, stretched, planes)
    return tf.transpose(tf.cast(planes, tf.uint8), [1, 2, 0])


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Each channel with as many pixels of each value as can be, in the order of the values."""
    import tensorflow as tf

    channels = [_equalized(tf.cast(part, tf.int32)) for part in tf.unstack(image, axis=2)]
    return tf.stack(channels, 2)


def _equalized(channel: tf.Tensor) -> tf.Tensor:
    """uint8, of int32 (height, width)."""
    import tensorflow as tf

    counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
    # The pixels of the largest value are not to be spread.
    step = (tf.size(channel) - counts[tf.reduce_max(channel)]) // 255
    before = tf.cumsum(counts, exclusive=True)
    table = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step == 0, tf.range(256), table)
    return tf.gather(tf.cast(table, tf.uint8), channel)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """The luma of each pixel: float32 (height, width), whole numbers."""
    import tensorflow as tf

    planes = [tf.cast(plane, tf.float32) for plane in tf.unstack(image, axis=2)]
    if len(planes) == 1:
        return planes[0]
    # Sums below 2**24, which float32 holds.
    luma = sum(weight * plane for weight, plane in zip(GREY, planes, strict=True)) + 2**15
    return tf.floor(luma / 2**16)


def _blended(degenerate: tf.Tensor | int, image: tf.Tensor, factor: float) -> tf.Tensor:
    """`degenerate` at 0, `image` at 1, beyond it the further from `degenerate`; uint8."""
    import tensorflow as tf

    zero, one = tf.cast(degenerate, tf.float32), tf.cast(image, tf.float32)
    return tf.cast(tf.clip_by_value(zero + factor * (one - zero), 0, 255), tf.uint8)
