"""Attention whose scores are scaled, masked and normalized in one pass.

Vaswani et al., "Attention Is All You Need", 2017 (arXiv:1706.03762), section 3.2.1. The products
are TensorFlow's. What is kept for the backward pass is the inputs and the weights, not the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpt.kernels.islands import island, serves, single

LEAST_SCORE = -0.7 * 3.38953e38
"""Of a place that is not seen; Keras's."""


def _weights(scores: tf.Tensor, scale: tf.Tensor, *, causal: bool) -> tf.Tensor:
    """softmax(scale * scores) over the last axis, by float32, in the dtype of `scores`."""
    scaled = single(scores) * scale
    if causal:
        rows, columns = scores.shape[-2:]
        seen = tf.range(rows)[:, tf.newaxis] >= tf.range(columns)
        scaled = tf.where(seen, scaled, tf.constant(LEAST_SCORE))
    powers = tf.exp(scaled - tf.reduce_max(scaled, -1, keepdims=True))
    return tf.cast(powers / tf.reduce_sum(powers, -1, keepdims=True), scores.dtype)


_all_weights = island(lambda scores, scale: _weights(scores, scale, causal=False))
_causal_weights = island(lambda scores, scale: _weights(scores, scale, causal=True))


@island
def _scores_gradient(weights: tf.Tensor, scale: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    wide, along = single(weights), single(upstream)
    inner = tf.reduce_sum(wide * along, -1, keepdims=True)
    return tf.cast(scale * wide * (along - inner), weights.dtype)


def attention(
    query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, scale: Any, *, causal: bool
) -> tf.Tensor:
    """softmax(scale QK^T) V.

    Args:
        query: (batch, length, heads, size).
        key, value: (batch, places, heads, size), in the dtype of `query`.
        causal: whether a place sees only itself and the places before it.

    Returns:
        As `query`.
    """
    factor = single(tf.convert_to_tensor(scale))

    @tf.custom_gradient
    def function(
        query: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        q, k, v = _by_head(query), _by_head(key), _by_head(value)
        scores = tf.matmul(q, k, transpose_b=True)
        weights = (_causal_weights if causal else _all_weights)(scores, factor)

        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            outward = _by_head(upstream)
            to_scores = _scores_gradient(weights, factor, tf.matmul(outward, v, transpose_b=True))
            return (
                _by_head(tf.matmul(to_scores, k)),
                _by_head(tf.matmul(to_scores, q, transpose_a=True)),
                _by_head(tf.matmul(weights, outward, transpose_a=True)),
            )

        return _by_head(tf.matmul(weights, v)), gradients

    return function(query, key, value)


def _by_head(value: tf.Tensor) -> tf.Tensor:
    """(batch, length, heads, size) to (batch, heads, length, size), and back."""
    return tf.transpose(value, [0, 2, 1, 3])


def instead_of(dot_product_attention: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for Keras's `dot_product_attention`, used where this serves."""

    def fused(
        query: Any,
        key: Any,
        value: Any,
        bias: Any = None,
        mask: Any = None,
        scale: Any = None,
        is_causal: bool = False,
        **others: Any,
    ) -> Any:
        if bias is None and mask is None and not any(others.values()) and _fits(query, key, value):
            if scale is None:
                scale = query.shape[-1] ** -0.5
            return attention(query, key, value, scale, causal=is_causal)
        return dot_product_attention(query, key, value, bias, mask, scale, is_causal, **others)

    return fused


def _fits(query: Any, key: Any, value: Any) -> bool:
    """Whether the queries are large enough, and keys and values have as many heads."""
    if not (serves(query) and all(isinstance(part, tf.Tensor) for part in (key, value))):
        return False
    if {key.dtype, value.dtype} != {query.dtype} or not key.shape.is_fully_defined():
        return False
    same = key.shape == value.shape and len(query.shape) == len(key.shape) == 4
    return bool(same and key.shape[0] == query.shape[0] and key.shape[2:] == query.shape[2:])
