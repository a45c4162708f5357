"""A Dense layer on sequences as one product of two matrices with its bias.

TensorFlow's graph optimizer makes one kernel of a product and a bias that is added to it, but not
across the reshaping that Keras's product of three and more axes puts between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpt.kernels.islands import serves


def instead_of(call: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for `Dense.call`, used where this serves."""

    def fused(layer: Any, inputs: Any, training: bool | None = None) -> Any:
        if not serves(inputs) or len(inputs.shape) < 3 or layer.bias is None:
            return call(layer, inputs, training=training)
        rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        products = tf.matmul(rows, tf.convert_to_tensor(layer.kernel))
        outputs = tf.nn.bias_add(products, tf.convert_to_tensor(layer.bias))
        outputs = tf.reshape(outputs, [*inputs.shape[:-1], outputs.shape[-1]])
        return outputs if layer.activation is None else layer.activation(outputs)

    return fused
