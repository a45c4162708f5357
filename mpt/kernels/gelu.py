"""GELU in one pass forward and one backward.

Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016 (arXiv:1606.08415), with erf and with its
approximation by tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpt.kernels.islands import island, serves, single

# gelu(x) = x / 2 (1 + tanh(LINEAR x + CUBIC x^3)), section 2.
LINEAR = math.sqrt(2 / math.pi)
CUBIC = 0.044715 * LINEAR
NORMAL = 1 / math.sqrt(2 * math.pi)


@island
def _by_tanh(x: tf.Tensor) -> tf.Tensor:
    wide = single(x)
    inner = wide * (LINEAR + CUBIC * wide * wide)
    return tf.cast(0.5 * wide * (1 + tf.tanh(inner)), x.dtype)


@island
def _by_tanh_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide = single(x)
    square = wide * wide
    tanh = tf.tanh(wide * (LINEAR + CUBIC * square))
    slope = 0.5 * (1 + tanh) + 0.5 * wide * (1 - tanh * tanh) * (LINEAR + 3 * CUBIC * square)
    return tf.cast(single(upstream) * slope, x.dtype)


@island
def _by_erf(x: tf.Tensor) -> tf.Tensor:
    wide = single(x)
    return tf.cast(0.5 * wide * (1 + tf.math.erf(wide * math.sqrt(0.5))), x.dtype)


@island
def _by_erf_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide = single(x)
    below = 0.5 * (1 + tf.math.erf(wide * math.sqrt(0.5)))
    slope = below + NORMAL * wide * tf.exp(-0.5 * wide * wide)
    return tf.cast(single(upstream) * slope, x.dtype)


@tf.custom_gradient
def _tanh(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
    return _by_tanh(x), lambda upstream: _by_tanh_gradient(x, upstream)


@tf.custom_gradient
def _erf(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
    return _by_erf(x), lambda upstream: _by_erf_gradient(x, upstream)


def instead_of(gelu: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for Keras's `gelu(x, approximate=True)`, which is used where this serves."""

    def fused(x: Any, approximate: bool = True) -> Any:
        if not serves(x):
            return gelu(x, approximate)
        return _tanh(x) if approximate else _erf(x)

    return fused
