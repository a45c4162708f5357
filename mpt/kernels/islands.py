"""Small pieces of the step that XLA compiles by themselves, while TensorFlow runs the rest.

XLA makes one pass over memory of what TensorFlow runs operation by operation, but its products and
convolutions on a CPU are slower than TensorFlow's own from oneDNN. So each piece here is
elementwise work and reductions only, with a gradient written by hand, which keeps what the forward
pass read instead of all that it computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import tensorflow as tf

DTYPES = (tf.float16, tf.bfloat16, tf.float32)
LEAST = 2**16
"""Elements below which a call's own cost is not won back."""


def island(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, compiled by XLA once a shape, its operations in its module's scope."""
    scope = function.__module__.rpartition(".")[2]

    @functools.wraps(function)
    def scoped(*tensors: tf.Tensor) -> Any:
        with tf.name_scope(scope):
            return function(*tensors)

    return tf.function(scoped, jit_compile=True, autograph=False)


def serves(value: Any, dtypes: Collection[tf.DType] = DTYPES, least: int = LEAST) -> bool:
    """Whether a tensor is one for a kernel: of `least` elements, of a shape known in full."""
    return (
        isinstance(value, tf.Tensor)
        and value.dtype in dtypes
        and value.shape.is_fully_defined()
        and value.shape.num_elements() >= least
    )


def single(value: tf.Tensor) -> tf.Tensor:
    """In float32, in which pieces compute whatever they read and write."""
    return tf.cast(value, tf.float32)
