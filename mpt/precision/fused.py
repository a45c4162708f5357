"""BatchNormalization by TensorFlow's fused kernel, which Keras 3 does not use.

Keras casts to float32 and runs mean, squared difference and rsqrt one by one. The fused kernel
does it in one pass over half-precision data, with float32 statistics. Only training steps use
it: inference stays with Keras's operations, so that predictions are equal to the last bit.

Never under XLA: there its results differ (1.5e-3 at a mean of 50, NaN at 1000). The caller
decides, and `unfuse` takes everything back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from mpt.precision.layers import walk

_DTYPES = ("float16", "bfloat16", "float32")
# cuDNN refuses less; tf.nn.fused_batch_norm raises it silently, which would be another result.
_MIN_EPSILON = 1.001e-5


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's BatchNormalization with another kernel for training steps.

    Instances are made by `fuse`, which changes the class of plain layers in place.
    """

    plain_class = keras.layers.BatchNormalization

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalize over batch, height and width.

        Args:
            inputs: (batch, height, width, channels) or, on a GPU, channels first; of float16,
                bfloat16 or float32. Anything else goes the stock way, as do masked inputs.
            training: whether to use the batch's statistics, and move the running ones.
            mask: steps to leave out; the fused kernel cannot.

        Returns:
            As `inputs`, in the layer's compute dtype.
        """
        data_format = self._data_format(inputs) if mask is None else None
        if not (training and self.trainable) or data_format is None:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[self.axis]
        scale = tf.ones(channels) if self.gamma is None else tf.cast(self.gamma, tf.float32)
        offset = tf.zeros(channels) if self.beta is None else tf.cast(self.beta, tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=scale,
            offset=offset,
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format=data_format,
            is_training=True,
        )
        # The kernel gives the unbiased variance (Bessel's correction); Keras keeps the biased.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        self._move(self.moving_mean, mean)
        self._move(self.moving_variance, variance * ((count - 1.0) / count))
        return keras.ops.cast(outputs, self.compute_dtype)

    def _move(self, average: keras.Variable, value: tf.Tensor) -> None:
        before = keras.ops.cast(average, "float32")
        average.assign(before * self.momentum + value * (1.0 - self.momentum))

    def _data_format(self, inputs: Any) -> str | None:
        """The kernel's name of the layout, or None where it does not fit."""
        if keras.backend.standardize_dtype(inputs.dtype) not in _DTYPES or len(inputs.shape) != 4:
            return None
        if inputs.shape[self.axis] is None or not _fits(self):
            return None
        if self.axis in (-1, 3):
            return "NHWC"
        return "NCHW" if self.axis in (1, -3) and _has_gpu() else None


def _fits(layer: keras.layers.BatchNormalization) -> bool:
    return not (
        layer.renorm
        or layer.synchronized
        or "float64" in (layer.compute_dtype, layer.variable_dtype)
        or layer.epsilon < _MIN_EPSILON
    )


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _may_fit(layer: keras.layers.BatchNormalization) -> bool:
    """Whether the kernel can serve the layer, as far as is known before it is called."""
    axes = (-1, 3, 1, -3) if _has_gpu() else (-1, 3)
    rank = layer.input_spec.ndim if layer.built else 4
    return _fits(layer) and layer.axis in axes and rank == 4


def fuse(model: keras.Model) -> list[str]:
    """Let the model's BatchNormalization layers train by the fused kernel, where it fits.

    Subclasses of BatchNormalization are left alone: their `call` is their own. Do not use it on
    a model whose step XLA compiles.

    Returns:
        Paths of the layers that use it now.
    """
    fused = []
    for path, layer in walk(model):
        if type(layer) is keras.layers.BatchNormalization and _may_fit(layer):
            layer.__class__ = FusedBatchNormalization
        if type(layer) is FusedBatchNormalization:
            fused.append(path)
    return fused


def unfuse(model: keras.Model) -> None:
    """Take `fuse` back: all layers are plain Keras layers again."""
    for _, layer in walk(model):
        if type(layer) is FusedBatchNormalization:
            layer.__class__ = keras.layers.BatchNormalization


@contextmanager
def unfused(model: keras.Model) -> Iterator[keras.Model]:
    """The model with plain layers inside the block: to save it, or to trace it for XLA."""
    fused = [layer for _, layer in walk(model) if type(layer) is FusedBatchNormalization]
    unfuse(model)
    try:
        yield model
    finally:
        for layer in fused:
            layer.__class__ = FusedBatchNormalization


def _save_as_plain() -> None:
    """Let a save outside `unfused` (Keras's ModelCheckpoint) write plain layers too.

    Keras finds the public name of a layer in this registry by its class, and names the place of
    its weights by the class's name.
    """
    from keras.src import api_export

    FusedBatchNormalization.__name__ = "BatchNormalization"
    api_export.REGISTERED_OBJS_TO_NAMES[FusedBatchNormalization] = "keras.layers.BatchNormalization"


_save_as_plain()
