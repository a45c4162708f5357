"""Softmax cross-entropy of integer labels, without writing the softmax to memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import nn

from mpt.kernels.islands import island, serves


@island
def _losses(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The losses, and the logarithm of each row's sum of exponentials."""
    largest = tf.reduce_max(logits, -1, keepdims=True)
    shifted = logits - largest
    logarithm = tf.math.log(tf.reduce_sum(tf.exp(shifted), -1))
    own = tf.reduce_sum(tf.where(_chosen(labels, logits), shifted, 0.0), -1)
    return logarithm - own, logarithm + largest[..., 0]


@island
def _gradient(
    labels: tf.Tensor, logits: tf.Tensor, logarithm: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    share = tf.exp(logits - logarithm[..., tf.newaxis])
    return upstream[..., tf.newaxis] * (share - tf.cast(_chosen(labels, logits), tf.float32))


def _chosen(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    places = tf.range(logits.shape[-1], dtype=tf.int32)
    return labels[..., tf.newaxis] == places


def losses(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[label] of each row.

    Args:
        labels: integers (...).
        logits: float32 (..., classes).

    Returns:
        float32 (...).

    Raises:
        tf.errors.InvalidArgumentError: a label that is no class, as by TensorFlow's own on a CPU.
    """
    labels, classes = tf.cast(labels, tf.int32), logits.shape[-1]
    tf.debugging.assert_non_negative(labels, "a label is negative")
    tf.debugging.assert_less(labels, classes, f"a label is not below {classes}, the classes")

    @tf.custom_gradient
    def function(logits: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
        values, logarithm = _losses(labels, logits)
        return values, lambda upstream: _gradient(labels, logits, logarithm, upstream)

    return function(logits)


def instead_of(cross_entropy: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for Keras's `sparse_categorical_crossentropy`, used where this serves."""

    def fused(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Any:
        logits, are_logits = _logits(output, from_logits)
        labels = tf.convert_to_tensor(target)
        if len(labels.shape) == len(logits.shape) and labels.shape[-1] == 1:
            labels = tf.squeeze(labels, -1)
        last = axis in (-1, len(logits.shape) - 1)
        plain = labels.dtype.is_integer or labels.dtype.is_floating
        if not (are_logits and last and plain and serves(logits)) or (
            labels.shape != logits.shape[:-1] or logits.dtype != tf.float32
        ):
            return cross_entropy(target, output, from_logits=from_logits, axis=axis)
        return losses(labels, logits)

    return fused


def _logits(output: Any, from_logits: bool) -> tuple[Any, bool]:
    """The logits behind `output`, as Keras finds them, and whether they are that."""
    return nn._get_logits(output, from_logits, "Softmax", "sparse_categorical_crossentropy")
