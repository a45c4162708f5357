"""How the scaled weight gradients of each layer are spread over the powers of two.

Tag (TensorBoard's histograms only, not metrics.jsonl) and unit:
    gradients/exponents/LAYER  gradient elements by exponent, floor(log2|g|), of the scaled
                               gradients of the layer's own weights; elements a bucket

This is the figure by which "Mixed Precision Training" (Micikevicius et al., 2018,
arXiv:1710.03740, figure 3) argues for loss scaling, with weight gradients instead of activations'.

The counting is exact, subnormal numbers included: exponents are taken from the bits, because
processors may take a subnormal operand of a float operation for zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mpt.state_fields import Fields
from mpt.telemetry.window import Window

# Those of float32, whose range holds float16's and bfloat16's; the first are subnormal numbers.
EXPONENTS = range(-149, 128)
# A row of counts: zeros, one bin an exponent, non-finite elements.
BINS = len(EXPONENTS) + 2
# Where the first and the last bucket lie, by compute dtype: what float16 can hold lies between.
# TensorBoard draws 30 columns from the first bucket to the last: the wider a range, the coarser.
ENDS = {"float16": (-27, 17)}
WIDE_ENDS = (-48, 11)


@dataclass(frozen=True)
class Watched:
    """The weights that make one histogram.

    Attributes:
        path: path of their layer.
        variables: Keras variables, as the optimizer gets them.
        compute_dtype: name of the layer's compute dtype.
    """

    path: str
    variables: Sequence[Any]
    compute_dtype: str


@dataclass(frozen=True)
class Spread:
    """The exponents of one layer's gradients at one step.

    Attributes:
        counts: int64 of shape (BINS,): zeros, one count an exponent of `EXPONENTS`, non-finite.
    """

    path: str
    compute_dtype: str
    step: int
    counts: np.ndarray

    @property
    def tag(self) -> str:
        return f"gradients/exponents/{self.path}"

    @property
    def description(self) -> str:
        """What the histogram shows, as Markdown for TensorBoard."""
        float16 = self.compute_dtype == "float16"
        return (
            f"Scaled gradients of this layer's weights, computed in {self.compute_dtype}, by "
            "exponent: floor(log2|g|). First bucket: exact zeros. Last bucket: NaN and infinities."
            + (" float16 is subnormal below -14 and ends at 15." if float16 else "")
        )

    @property
    def buckets(self) -> np.ndarray:
        """TensorBoard's form: float64 of shape (k, 3): left edge, right edge, count.

        The first bucket holds the zeros and the last one what is not finite. Between them bucket
        [e, e + 1) has the elements of exponent e, and an empty bucket fills the gap on either side.
        """
        left, right = ENDS.get(self.compute_dtype, WIDE_ENDS)
        used = np.flatnonzero(self.counts[1:-1])
        if not used.size:
            edges = [left, left + 1, right, right + 1]
            return _buckets(edges, [self.counts[0], 0, self.counts[-1]])
        lowest, highest = EXPONENTS[used[0]], EXPONENTS[used[-1]]
        left, right = min(left, lowest - 2), max(right, highest + 2)
        edges = [left, left + 1, *range(lowest, highest + 2), right, right + 1]
        middle = self.counts[1 + used[0] : 2 + used[-1]]
        return _buckets(edges, [self.counts[0], 0, *middle, 0, self.counts[-1]])


def _buckets(edges: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    return np.array([edges[:-1], edges[1:], counts], "float64").T


class ExponentHistograms:
    """Counts on the device at every `every`-th step, and holds the last counts until they are read.

    Made in the scope of the model's strategy. Its two variables are no part of the optimizer.

    Args:
        watched: the layers, each with its weights; at least one.
        every: steps between two histograms, at least 1.
        deterministic: TensorFlow is confined to deterministic kernels, of which a GPU has none for
            counting: sort instead, which is slower.
    """

    def __init__(self, watched: Iterable[Watched], every: int, *, deterministic: bool = False):
        self.watched = tuple(watched)
        self.every = every
        self._deterministic = deterministic
        shape = (len(self.watched), BINS)
        self._counts = tf.Variable(tf.zeros(shape, tf.int64), trainable=False, name="exponents")
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="exponents_step")

    def count(self, pairs: Iterable[tuple[Any, Any]], number: tf.Tensor) -> None:
        """Count, if the step is one of those whose gradients are counted.

        Called where variables can be assigned: in cross-replica context under a strategy.

        Args:
            pairs: gradients, dense or `tf.IndexedSlices`, each with its variable. Of slices the
                values are counted as they come, as by `mpt.telemetry.gradients`.
            number: int64 scalar, number of the step, counted from 1.
        """
        gradients = {id(variable): gradient for gradient, variable in pairs}

        def count() -> int:
            rows = []
            for layer in self.watched:
                own = [gradients[id(v)] for v in layer.variables if id(v) in gradients]
                rows.append(exponent_counts(own, deterministic=self._deterministic))
            self._counts.assign(tf.stack(rows))
            self._step.assign(number)
            return 0

        tf.cond(number % self.every == 0, count, lambda: 0)

    def state(self) -> dict[str, Any]:
        """The last counts, which may not have been read yet."""
        return {
            "step": int(tf.convert_to_tensor(self._step).numpy()),
            "counts": tf.convert_to_tensor(self._counts).numpy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Hold the counts of `state`.

        Raises:
            ValueError: it is no such state.
        """
        kept = Fields(state, "step", "counts")
        step = kept.whole("step")
        self._counts.assign(state["counts"])
        self._step.assign(step)

    def within(self, window: Window) -> bool:
        """Whether one of the window's steps was counted; tells it without asking the device."""
        return window.step // self.every > (window.step - window.steps) // self.every

    def read(self) -> list[Spread]:
        """The last counts, of the layers that had gradients. Waits for the device."""
        step = int(tf.convert_to_tensor(self._step).numpy())
        counts = tf.convert_to_tensor(self._counts).numpy()
        return [
            Spread(layer.path, layer.compute_dtype, step, row)
            for layer, row in zip(self.watched, counts, strict=True)
            if row.any()
        ]


def exponent_counts(gradients: Sequence[Any], *, deterministic: bool = False) -> tf.Tensor:
    """Counts of all elements of `gradients`: int64 of shape (BINS,), laid out as in `Spread`.

    Args:
        gradients: float16, bfloat16, float32 or float64 tensors, or `tf.IndexedSlices`, of any
            shape. float64 elements beyond float32's range are counted at its ends.
        deterministic: count by sorting.
    """
    counted = [tf.zeros(BINS, tf.int64)]
    for dtype, values in _by_dtype(gradients).items():
        flat = tf.concat([tf.reshape(value, [-1]) for value in values], 0)
        bins = _bins64(flat) if dtype == tf.float64 else _bins(_float32_bits(flat))
        counted.append(_sorted_counts(bins) if deterministic else _counts(bins))
    return tf.add_n(counted)


def _by_dtype(gradients: Sequence[Any]) -> Mapping[tf.DType, list[tf.Tensor]]:
    found: dict[tf.DType, list[tf.Tensor]] = {}
    for gradient in gradients:
        value = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        found.setdefault(value.dtype, []).append(value)
    return found


def _float32_bits(values: tf.Tensor) -> tf.Tensor:
    """The bits, as int32, of the values in float32, which holds all of a half type exactly."""
    return tf.bitcast(tf.cast(values, tf.float32), tf.int32)


def _bins(bits: tf.Tensor) -> tf.Tensor:
    """Index of each float32's bin, as float32, in which a GPU computes: int32 it leaves to the CPU.

    Exponent field e: an exponent of e - 127, and 255 where the value is not finite, whose bin is
    the next one. Subnormal numbers are whole multiples of 2^-149: of that number, which float32
    holds exactly, the exponent is taken; of zero it comes out below all bins.
    """
    field = _exponent_field(bits)
    multiple = tf.cast(tf.bitwise.bitwise_and(bits, 0x7FFFFF), tf.float32)
    subnormal = _exponent_field(tf.bitcast(multiple, tf.int32)) - 127 + 1
    normal = field - 127 - EXPONENTS[0] + 1
    return tf.where(field > 0, normal, tf.maximum(subnormal, 0.0))


def _exponent_field(bits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 23), 0xFF), tf.float32)


def _bins64(values: tf.Tensor) -> tf.Tensor:
    """As `_bins`, of float64 values: beyond float32's range, in its first and last exponent."""
    bits = tf.bitcast(values, tf.int64)
    field = tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 52), 0x7FF), tf.float32)
    # Not bits == 0: LLVM makes a float comparison of that, which takes subnormal numbers for zero.
    multiple = tf.cast(tf.bitwise.bitwise_and(bits, 0xFFFFFFFFFFFFF), tf.float32)
    normal = tf.clip_by_value(field - 1023 - EXPONENTS[0] + 1, 1.0, len(EXPONENTS))
    finite = tf.where(field > 0, normal, tf.minimum(multiple, 1.0))
    return tf.where(field < 0x7FF, finite, float(BINS - 1))


def _counts(bins: tf.Tensor) -> tf.Tensor:
    counts = tf.raw_ops.DenseBincount(
        input=tf.cast(bins, tf.int32), size=BINS, weights=tf.zeros([0], tf.int32)
    )
    return tf.cast(counts, tf.int64)


def _sorted_counts(bins: tf.Tensor) -> tf.Tensor:
    edges = tf.range(BINS + 1, dtype=tf.float32)
    below = tf.searchsorted(tf.sort(bins), edges, out_type=tf.int64)
    return below[1:] - below[:-1]
