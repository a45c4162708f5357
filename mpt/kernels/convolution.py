"""A convolution's parts as matrix products, where oneDNN's convolutions take longer.

oneDNN brings a kernel into an order of its own at each call, and adds up a kernel's gradient in a
copy for each thread: work that grows with the kernel, not with the images. Where images are small
and channels many, as in the later stages of a residual network, that is most of a convolution's
time. There the same sums are the product of the images' patches with the kernel as a matrix
(Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
Processing", 2006). What follows says where that was measured to be faster, on two CPU cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mpt.kernels.islands import serves

DTYPES = (tf.bfloat16, tf.float32)
LEAST = 2**24
"""Multiplications of a convolution below which there is nothing to win."""
FORWARD, BACKWARD = "convolution_forward", "convolution_backward"
"""Scopes of a product's operations, by which a profile tells what they are for."""


@dataclass(frozen=True)
class Convolution:
    """One over (height, width), channels last, all sizes known."""

    images: tuple[int, int, int, int]
    """(batch, height, width, channels)"""
    kernel: tuple[int, int, int, int]
    """(height, width, channels, outputs)"""
    strides: tuple[int, int]
    padding: str
    """TensorFlow's name: SAME or VALID."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        within = (0, 0) if self.padding == "SAME" else (self.kernel[0] - 1, self.kernel[1] - 1)
        height, width = (
            -(-(side - less) // step)
            for side, less, step in zip(self.images[1:3], within, self.strides, strict=True)
        )
        return height, width

    @property
    def zeros(self) -> list[tuple[int, int]]:
        """Rows of zeros before and after the images, then columns."""
        if self.padding == "VALID":
            return [(0, 0), (0, 0)]
        sides = zip(self.images[1:3], self.kernel[:2], self.strides, self.size, strict=True)
        short = [max((size - 1) * step + k - side, 0) for side, k, step, size in sides]
        return [(missing // 2, missing - missing // 2) for missing in short]

    @property
    def outputs(self) -> tuple[int, int, int, int]:
        """(batch, height, width, outputs)"""
        return (self.images[0], *self.size, self.kernel[3])

    @property
    def rows(self) -> int:
        """Pixels of the outputs, of all images."""
        return math.prod(self.outputs[:3])

    @property
    def pointwise(self) -> bool:
        return self.kernel[:2] == (1, 1)

    @property
    def forward_as_product(self) -> bool:
        return self._rows_for_a_channel <= (4 if self.pointwise else 1)

    @property
    def to_kernel_as_product(self) -> bool:
        if self.pointwise:
            return self._rows_for_a_channel <= 128
        narrow = min(self.kernel[2:]) < 32
        return not narrow and self._rows_for_a_channel <= (16 if self.strides == (1, 1) else 32)

    @property
    def to_images_as_product(self) -> bool:
        return self.pointwise and self._rows_for_a_channel <= 2

    @property
    def _rows_for_a_channel(self) -> float:
        """What a product costs more (rows) over what a convolution does (channels)."""
        return self.rows / (max(self.kernel[2:]) if self.pointwise else self.kernel[3])


def convolution(images: tf.Tensor, kernel: tf.Tensor, of: Convolution) -> tf.Tensor:
    """The convolution `of` these, as TensorFlow's conv2d.

    Args:
        images: (batch, height, width, channels), bfloat16 or float32.
        kernel: (height, width, channels, outputs), in the dtype of `images`.

    Returns:
        (batch, height, width, outputs), in that dtype.
    """

    @tf.custom_gradient
    def function(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return _to_images(kernel, upstream, of), _to_kernel(images, upstream, of)

        return _forward(images, kernel, of), gradients

    return function(images, kernel)


def _forward(images: tf.Tensor, kernel: tf.Tensor, of: Convolution) -> tf.Tensor:
    if not of.forward_as_product:
        return tf.nn.conv2d(images, kernel, of.strides, of.padding)
    with tf.name_scope(FORWARD):
        products = tf.matmul(_patches(images, of), tf.reshape(kernel, [-1, of.kernel[3]]))
        return tf.reshape(products, of.outputs)


def _to_kernel(images: tf.Tensor, upstream: tf.Tensor, of: Convolution) -> tf.Tensor:
    if not of.to_kernel_as_product:
        return tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=of.kernel,
            out_backprop=upstream,
            strides=(1, *of.strides, 1),
            padding=of.padding,
        )
    with tf.name_scope(BACKWARD):
        rows = tf.reshape(upstream, [-1, of.kernel[3]])
        return tf.reshape(tf.matmul(_patches(images, of), rows, transpose_a=True), of.kernel)


def _to_images(kernel: tf.Tensor, upstream: tf.Tensor, of: Convolution) -> tf.Tensor:
    if not of.to_images_as_product:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=of.images,
            filter=kernel,
            out_backprop=upstream,
            strides=(1, *of.strides, 1),
            padding=of.padding,
        )
    with tf.name_scope(BACKWARD):
        rows = tf.reshape(upstream, [-1, of.kernel[3]])
        products = tf.matmul(rows, tf.reshape(kernel, of.kernel[2:]), transpose_b=True)
        return _spread(tf.reshape(products, [*of.outputs[:3], of.kernel[2]]), of)


def _spread(values: tf.Tensor, of: Convolution) -> tf.Tensor:
    """Puts what belongs to each output where its pixel was, and zeros between."""
    if of.strides == (1, 1):
        return values
    batch, height, width, channels = values.shape
    down, across = of.strides
    apart = tf.reshape(values, [batch, height, 1, width, 1, channels])
    apart = tf.pad(apart, [[0, 0], [0, 0], [0, down - 1], [0, 0], [0, across - 1], [0, 0]])
    whole = tf.reshape(apart, [batch, height * down, width * across, channels])
    return whole[:, : of.images[1], : of.images[2]]


def _patches(images: tf.Tensor, of: Convolution) -> tf.Tensor:
    """(rows, kernel's height * width * channels): what each output is computed from."""
    if of.pointwise and of.strides == (1, 1):
        return tf.reshape(images, [-1, of.kernel[2]])
    padded = tf.pad(images, [(0, 0), *of.zeros, (0, 0)])
    patches = tf.gather(tf.reshape(padded, [-1, of.kernel[2]]), _places(of))
    return tf.reshape(patches, [of.rows, -1])


def _places(of: Convolution) -> np.ndarray:
    """(rows, kernel's height * width) int32: where the pixels of each output's patch are."""
    height, width = (
        side + sum(zeros) for side, zeros in zip(of.images[1:3], of.zeros, strict=True)
    )
    image, row, column, down, across = np.ogrid[
        tuple(slice(length) for length in (of.images[0], *of.size, *of.kernel[:2]))
    ]
    line = image * height + row * of.strides[0] + down
    places = line * width + column * of.strides[1] + across
    return places.reshape(of.rows, -1).astype("int32")


def instead_of(conv: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for Keras's `conv`, used where some part of it is faster as a product."""

    def fused(
        inputs: Any,
        kernel: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
    ) -> Any:
        weights = tf.convert_to_tensor(kernel)
        of = _described(inputs, weights, strides, padding)
        plain = data_format == "channels_last" and set(np.ravel(dilation_rate)) == {1}
        if of is None or not plain:
            return conv(inputs, kernel, strides, padding, data_format, dilation_rate)
        return convolution(inputs, weights, of)

    return fused


def _described(inputs: Any, kernel: tf.Tensor, strides: Any, padding: str) -> Convolution | None:
    """What is asked for, if it is a convolution of images of which a product serves a part."""
    if not serves(inputs, DTYPES, least=1) or len(inputs.shape) != 4:
        return None
    if kernel.dtype != inputs.dtype or kernel.shape[2] != inputs.shape[3]:
        return None
    down, across = np.broadcast_to(strides, 2).tolist()
    of = Convolution(tuple(inputs.shape), tuple(kernel.shape), (down, across), padding.upper())
    if of.rows < 1 or of.rows * kernel.shape.num_elements() < LEAST:
        return None
    if of.forward_as_product or of.to_kernel_as_product or of.to_images_as_product:
        return of
    return None
