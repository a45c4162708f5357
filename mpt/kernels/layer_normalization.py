"""Layer normalization over the last axis in one pass forward and one backward.

Ba et al., "Layer Normalization", 2016 (arXiv:1607.06450). Statistics are in float32, as Keras's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpt.kernels.islands import island, serves, single


@island
def _normalized(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    wide = single(x)
    mean = tf.reduce_mean(wide, -1, keepdims=True)
    centred = wide - mean
    variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
    inverse = tf.math.rsqrt(variance + epsilon)
    return tf.cast(centred * inverse * scale + offset, x.dtype), mean, inverse


@island
def _gradients(
    x: tf.Tensor, scale: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, upstream: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    normal, wide = (single(x) - mean) * inverse, single(upstream)
    scaled = wide * scale
    along = tf.reduce_mean(scaled * normal, -1, keepdims=True)
    inputs = inverse * (scaled - tf.reduce_mean(scaled, -1, keepdims=True) - normal * along)
    rows = list(range(len(x.shape) - 1))
    return tf.cast(inputs, x.dtype), tf.reduce_sum(wide * normal, rows), tf.reduce_sum(wide, rows)


def normalized(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> tf.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + offset over the last axis.

    Args:
        x: (..., features), of float16, bfloat16 or float32.
        scale: (features,), float32.
        offset: (features,), float32.

    Returns:
        As `x`.
    """

    @tf.custom_gradient
    def function(
        x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        outputs, mean, inverse = _normalized(x, scale, offset, tf.constant(epsilon, tf.float32))
        return outputs, lambda upstream: _gradients(x, scale, mean, inverse, upstream)

    return function(x, scale, offset)


def instead_of(layer_normalization: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for what Keras's `ops.layer_normalization` calls, used where this serves."""

    def fused(
        x: Any,
        gamma: Any = None,
        beta: Any = None,
        axis: Any = -1,
        epsilon: float | None = None,
        rms_scaling: bool = False,
    ) -> Any:
        axes = [axis] if isinstance(axis, int) else list(axis)
        last = serves(x) and axes in ([-1], [len(x.shape) - 1])
        if not last or rms_scaling or epsilon is None:
            return layer_normalization(x, gamma, beta, axis, epsilon, rms_scaling)
        scale = tf.ones(x.shape[-1]) if gamma is None else single(tf.convert_to_tensor(gamma))
        offset = tf.zeros(x.shape[-1]) if beta is None else single(tf.convert_to_tensor(beta))
        return normalized(x, scale, offset, epsilon)

    return fused
