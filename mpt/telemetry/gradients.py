"""Statistics of one step's gradients, computed on the device.

Tags (TensorBoard and metrics.jsonl) and units:
    gradients/global_norm         L2 norm of all gradients, unscaled, before clipping
    gradients/max_abs             largest absolute value of the scaled gradients; inf on overflow
    gradients/headroom_bits       bits left from that value to the compute dtype's largest number
    gradients/zero_fraction       share of gradient elements that are exactly zero, 0 to 1
    gradients/subnormal_fraction  share below the compute dtype's smallest normal number, not zero

A gradient is a dense tensor or a `tf.IndexedSlices`; of the latter the slices are measured as they
come, without adding up those that share an index.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mpt.telemetry.window import Window

# Below this a float32 sum of squares has lost terms that a gradient of normal numbers can have.
SMALLEST_TRUSTED_SUM = 1e-30


class Extent(NamedTuple):
    """How large and how small the elements are: three float32 scalars."""

    max_abs: tf.Tensor
    zero_fraction: tf.Tensor
    subnormal_fraction: tf.Tensor


def norm_and_finite(gradients: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Global L2 norm and whether every element is finite, by one pass over each gradient.

    The sum of squares tells both: it is finite only where every element is. Only where it
    overflowed (finite elements can do that too) or came out next to nothing are the elements
    looked at again, exactly.

    Args:
        gradients: floating tensors or `tf.IndexedSlices` of any shape, at least one.

    Returns:
        The norm (float32 scalar; inf or NaN where an element is) and a bool scalar.
    """
    values = [_at_least_float32(_values(gradient)) for gradient in gradients]
    wide = tf.float64 if any(value.dtype == tf.float64 for value in values) else tf.float32
    total = 2 * tf.add_n([tf.cast(tf.nn.l2_loss(value), wide) for value in values])
    trusted = tf.math.is_finite(total) & (total >= SMALLEST_TRUSTED_SUM)
    norm, finite = tf.cond(
        trusted,
        lambda: (tf.sqrt(total), tf.constant(True)),
        lambda: _exact_norm_and_finite(values, total),
    )
    return tf.cast(norm, tf.float32), finite


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether every element of every tensor is finite, looked at one by one; a bool scalar."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(_values(tensor))) for tensor in tensors])


def extent(gradients: Sequence[tf.Tensor], dtype: str) -> Extent:
    """Largest absolute value, and shares of zeros and of subnormal numbers.

    Args:
        gradients: floating tensors or `tf.IndexedSlices`, scaled as the backward pass had them.
        dtype: name of the compute dtype ("float16", ...) whose subnormal range is meant.

    Returns:
        An `Extent`; its max_abs is inf where any element is inf or NaN.
    """
    smallest_normal = _smallest_normal(dtype)
    largest, sizes, zeros, below = [], [], [], []
    for gradient in gradients:
        magnitude = tf.abs(_at_least_float32(_values(gradient)))
        size = tf.size(magnitude, out_type=tf.int64)
        largest.append(tf.cast(tf.reduce_max(magnitude), tf.float32))
        sizes.append(size)
        zeros.append(size - tf.math.count_nonzero(magnitude))
        below.append(tf.math.count_nonzero(magnitude < tf.cast(smallest_normal, magnitude.dtype)))
    # A maximum may pass over a NaN: count those as the overflow that they come from.
    max_abs = tf.where(all_finite(gradients), tf.reduce_max(largest), math.inf)
    count = tf.cast(tf.add_n(sizes), tf.float64)
    zero = tf.cast(tf.add_n(zeros), tf.float64)
    subnormal = tf.cast(tf.add_n(below), tf.float64) - zero
    return Extent(
        max_abs, tf.cast(zero / count, tf.float32), tf.cast(subnormal / count, tf.float32)
    )


def headroom_bits(max_abs: float, dtype: str) -> float:
    """log2 of the compute dtype's largest finite number over the largest scaled gradient.

    Args:
        max_abs: largest absolute value of the scaled gradients, at least 0.
        dtype: name of the compute dtype.

    Returns:
        Bits; inf where all gradients are zero, -inf after an overflow, NaN for NaN. Negative
        where a gradient, once added up over replicas, is beyond the compute dtype.
    """
    if math.isnan(max_abs):
        return math.nan
    if max_abs == 0:
        return math.inf
    if math.isinf(max_abs):
        return -math.inf
    return math.log2(float(tf.as_dtype(dtype).max)) - math.log2(max_abs)


def tags(window: Window, *, dtype: str) -> dict[str, float]:
    """This module's tags for one window.

    Args:
        dtype: the compute dtype, whose largest number the headroom is counted from.

    Returns:
        The last step's values; but for the norm, only where the window ends on a step at which
        they were measured.
    """
    last = {name: float(column[-1]) for name, column in window.rows.items()}
    found = {"gradients/global_norm": last["global_norm"]}
    if window.complete:
        for name in Extent._fields:
            found[f"gradients/{name}"] = last[name]
        found["gradients/headroom_bits"] = headroom_bits(last["max_abs"], dtype)
    return found


def _values(gradient: tf.Tensor) -> tf.Tensor:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def _at_least_float32(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype in (tf.float32, tf.float64) else tf.cast(value, tf.float32)


def _smallest_normal(dtype: str) -> float:
    exponents = {"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}
    return 2.0 ** exponents[dtype]


def _exact_norm_and_finite(
    values: Sequence[tf.Tensor], total: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """As `norm_and_finite`, dividing by the largest element before squaring (as BLAS's nrm2)."""
    finite = all_finite(values)
    largest = tf.reduce_max([tf.cast(tf.reduce_max(tf.abs(v)), total.dtype) for v in values])
    unit = tf.where(finite & (largest > 0), largest, tf.ones_like(largest))
    squares = [tf.reduce_sum(tf.square(tf.cast(v, total.dtype) / unit)) for v in values]
    return tf.where(finite, unit * tf.sqrt(tf.add_n(squares)), total), finite
