"""Label smoothing.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015, section 7: a
share of each label is spread evenly over all classes.
"""

from __future__ import annotations

import copy
from typing import Any

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError

KERASS_OWN = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
)
"""Losses that take `label_smoothing` as an argument."""


def smoothed(loss: Any, share: float) -> Any:
    """`loss` with each cross-entropy in it taken of labels of which `share` is spread evenly.

    Args:
        loss: a loss, or a list or dict of losses by output. Those that are of no classes, as a
            mean squared error beside a cross-entropy, stay as they are.
        share: in [0, 1); 0 leaves everything.

    Raises:
        ConfigurationError: none of the losses has labels to smooth, or one smooths them already.
    """
    if not share:
        return loss
    parts = keras.tree.flatten(loss)
    found = [_smoothed(part, share) for part in parts]
    if all(one is other for one, other in zip(parts, found, strict=True)):
        name = getattr(parts[0], "name", parts[0])
        raise ConfigurationError(
            f"the loss {name} takes no labels of classes that could be smoothed",
            where="label_smoothing",
            allowed=[0],
            remedy="set label_smoothing=0, or take loss=auto or a cross-entropy of Keras's by its "
            "full name",
        )
    return keras.tree.pack_sequence_as(loss, found)


def _smoothed(loss: Any, share: float) -> Any:
    """`loss`, if it is a cross-entropy, with smoothed labels; else the same object."""
    if type(loss) is keras.losses.SparseCategoricalCrossentropy:
        return _sparse(loss, share)
    if type(loss) not in KERASS_OWN:
        return loss
    settings = loss.get_config()
    if settings["label_smoothing"]:
        raise ConfigurationError(
            f"the loss {loss.name} smooths its labels already, by {settings['label_smoothing']:g}",
            where="label_smoothing",
            remedy="set one of the two",
        )
    return type(loss)(**{**settings, "label_smoothing": share, "dtype": loss.dtype})


def _sparse(
    loss: keras.losses.SparseCategoricalCrossentropy, share: float
) -> keras.losses.SparseCategoricalCrossentropy:
    """A cross-entropy of integer labels, of which Keras smooths none.

    The labels are not made one-hot, which for each token of a text would cost as much memory as
    the logits: the cross-entropy is linear in them, and so it is a mean of two. It is this object
    that computes so: the saved file names Keras's class.
    """
    smooth, axis = copy.copy(loss), loss._fn_kwargs.get("axis", -1)
    of_labels = smooth.call

    def call(y_true: Any, y_pred: Any) -> Any:
        hard = of_labels(y_true, y_pred)
        even = _of_even_labels(y_pred, axis, from_logits=loss.from_logits)
        mask = getattr(hard, "_keras_mask", None)
        if mask is not None:  # of labels that are to be ignored
            even = tf.where(mask, even, tf.zeros_like(even))
        mixed = (1 - share) * hard + share * even
        if mask is not None:
            mixed._keras_mask = mask
        return mixed

    smooth.call = call
    return smooth


def _of_even_labels(y_pred: Any, axis: int, *, from_logits: bool) -> tf.Tensor:
    """The cross-entropy of labels that are the same for all classes, which lie along `axis`.

    From logits where there are any, as Keras does it, which hangs those of a softmax on its output.
    """
    y_pred = tf.convert_to_tensor(y_pred)
    logits = getattr(y_pred, "_keras_logits", y_pred if from_logits else None)
    if logits is not None:
        return tf.reduce_logsumexp(logits, axis=axis) - tf.reduce_mean(logits, axis=axis)
    probabilities = y_pred / tf.reduce_sum(y_pred, axis=axis, keepdims=True)
    least = keras.config.epsilon()
    logarithms = tf.math.log(tf.clip_by_value(probabilities, least, 1 - least))
    return -tf.reduce_mean(logarithms, axis=axis)
