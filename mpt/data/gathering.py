"""Batches of an array's rows: gathered in memory, or read from a file's map."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mpt.data.examples import Examples

if TYPE_CHECKING:
    import tensorflow as tf

MEMORY_MAP_ABOVE = 64 * 2**20
"""Bytes up to which a mapped file is read into memory, which is faster."""


def gather(examples: Examples, rows: np.ndarray, scale: float | None) -> Callable:
    """A function from positions (batch,) in `rows` to the batch (x, y) of those rows."""
    import tensorflow as tf

    x_type = _x_type(examples, scale)
    y_type = "float32" if examples.y.dtype.kind == "f" else "int32"
    if scale is None and examples.x.dtype == np.uint8 and not examples.tokens:
        scale = 1 / 255
    if is_large_map(examples.x) or is_large_map(examples.y):
        take = _from_files(examples, rows)
    else:
        with tf.device("CPU:0"):  # tf.data runs there, wherever the model trains
            x = tf.constant(_in_memory(examples.x, rows))
            y = tf.constant(_in_memory(examples.y, rows))

        def take(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.gather(x, positions), tf.gather(y, positions)

    def batch(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_batch, y_batch = take(positions)
        x_batch = tf.cast(x_batch, x_type)
        if scale is not None:
            x_batch = x_batch * tf.constant(scale, x_type)
        return x_batch, tf.cast(y_batch, y_type)

    return batch


def _from_files(examples: Examples, rows: np.ndarray) -> Callable:
    import tensorflow as tf

    stored = [_small(examples.x.dtype), _small(examples.y.dtype)]

    def read(positions: np.ndarray) -> list[np.ndarray]:
        wanted = rows[positions]
        return [
            np.asarray(part[wanted]).astype(kind, copy=False)
            for part, kind in zip((examples.x, examples.y), stored, strict=True)
        ]

    def take(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(read, [positions], stored, stateful=False)
        x.set_shape([*positions.shape, *examples.x.shape[1:]])
        y.set_shape([*positions.shape, *examples.y.shape[1:]])
        return x, y

    return take


def _x_type(examples: Examples, scale: float | None) -> str:
    """The dtype in which x reaches the model."""
    x = examples.x
    whole = x.dtype.kind in "iu" and x.dtype != np.uint8 and scale is None
    return "int32" if whole or examples.tokens else "float32"


def is_large_map(array: np.ndarray) -> bool:
    """Whether `array` is a file's map that is not to be read into memory."""
    return isinstance(array, np.memmap) and array.nbytes > MEMORY_MAP_ABOVE


def _in_memory(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(rows) == len(array) and np.array_equal(rows, np.arange(len(rows))):
        return np.asarray(array, dtype=_small(array.dtype))
    return np.asarray(array[rows], dtype=_small(array.dtype))


def _small(dtype: np.dtype) -> np.dtype:
    """What is kept of `dtype`: bytes as they are, else 32 bits."""
    if dtype.kind == "b":
        return np.dtype(np.int32)
    if dtype in (np.uint8, np.int8, np.int16, np.float16):
        return dtype.newbyteorder("=")
    return np.dtype(np.float32 if dtype.kind == "f" else np.int32)
