"""Exponent histograms against NumPy's `frexp`."""

import json
import subprocess
import sys

import exact_gradients as exact
import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from mpt.loss_scale import LossScaleOptimizer
from mpt.telemetry.histograms import (
    BINS,
    EXPONENTS,
    ExponentHistograms,
    Spread,
    Watched,
    exponent_counts,
)
from mpt.telemetry.window import Window

# NumPy's dtype, the integers of its size, and a mask that leaves sign and fraction.
FORMATS = {
    "float16": (np.float16, np.uint16, 0x83FF),
    "bfloat16": (ml_dtypes.bfloat16, np.uint16, 0x807F),
    "float32": (np.float32, np.uint32, 0x807FFFFF),
    "float64": (np.float64, np.uint64, 0x800FFFFFFFFFFFFF),
}


def by_numpy(*arrays):
    """Counts by NumPy: frexp gives a fraction of at least 0.5, hence the 1."""
    with np.errstate(invalid="ignore"):
        values = np.concatenate([np.ravel(array).astype("float64") for array in arrays])
    finite = values[np.isfinite(values)]
    exponents = np.frexp(finite[finite != 0])[1] - 1
    counts = np.zeros(BINS, "int64")
    counts[0], counts[-1] = np.sum(finite == 0), np.sum(~np.isfinite(values))
    np.add.at(counts, np.clip(exponents, -149, 127) + 149 + 1, 1)
    return counts


def every_kind(name, count=4000):
    """Numbers of any bits, NaN and infinities among them; subnormal ones; both zeros."""
    dtype, integer, fraction = FORMATS[name]
    generator = np.random.default_rng(0)
    bits = generator.integers(0, np.iinfo(integer).max, count, dtype=integer, endpoint=True)
    fewer = generator.integers(0, np.dtype(integer).itemsize * 8, count).astype(integer)
    subnormal = (bits & integer(fraction)) >> np.minimum(fewer, integer(51))
    values = np.concatenate([bits, subnormal]).view(dtype)
    return np.concatenate([values, np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan], dtype)])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_number_falls_where_numpy_has_it(name, jit):
    values = every_kind(name)
    expected = by_numpy(values)
    used = expected[1:-1] > 0
    if name != "float16":
        assert used.sum() > 100, "the sample covers the range"
    assert expected[0]
    assert expected[-1]

    @tf.function(jit_compile=jit)
    def count(first, second):
        return exponent_counts([first, second])

    counts = count(tf.constant(values[:8]), tf.reshape(values[8:], [2, -1]))
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_sorting_counts_the_same(name):
    values = every_kind(name)
    counts = exponent_counts([tf.constant(values)], deterministic=True)
    np.testing.assert_array_equal(counts, by_numpy(values))


def test_slices_scalars_and_mixed_dtypes_add_up():
    slices = tf.IndexedSlices(tf.constant([[3.0], [0.0]]), tf.constant([5, 5]), [9, 1])
    half = np.array([2.0**-24, 65504.0], "float16")
    counts = exponent_counts([slices, tf.constant(half), tf.constant(0.5)])
    np.testing.assert_array_equal(counts, by_numpy([3.0, 0.0], half, 0.5))
    assert not exponent_counts([]).numpy().any()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_the_loop_counts_what_numpy_differentiates(policy, jit):
    loop, histograms = exact.make(policy, jit)
    dtype = FORMATS[policy.removeprefix("mixed_")][0]
    # Single steps, then one call of all the others; between two histograms the last one stays.
    for count, step in [(1, None), (3, 4), (1, 4), (3, exact.OVERFLOW), (8, exact.STEPS)]:
        loop.run(count) if count == 8 else [loop.run(1) for _ in range(count)]
        spreads = histograms.read()
        if step is None:
            assert spreads == []
            continue
        assert [(spread.path, spread.step) for spread in spreads] == [("dense", step)]
        np.testing.assert_array_equal(spreads[0].counts, by_numpy(*exact.expected(step, dtype)))
        assert bool(spreads[0].counts[-1]) == (step == exact.OVERFLOW)


@pytest.mark.slow
def test_mirrored_replicas_count_the_summed_gradients():
    done = subprocess.run(
        [sys.executable, exact.__file__], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert [step for step, _ in found] == [4, 8, 12, 16]
    for step, counts in found:
        np.testing.assert_array_equal(
            counts, by_numpy(*exact.expected(step, np.float32)), err_msg=str(step)
        )


def test_layers_are_counted_apart_and_those_without_gradients_left_out():
    variables = [keras.Variable([1.0]) for _ in range(3)]
    watched = [Watched(path, [v], "float32") for path, v in zip("abc", variables, strict=True)]
    histograms = ExponentHistograms(watched, every=1)
    gradients = [tf.constant([4.0]), tf.constant([0.25])]
    histograms.count(zip(gradients, variables[:2], strict=True), tf.constant(7, tf.int64))
    spreads = histograms.read()
    assert [(spread.path, spread.step) for spread in spreads] == [("a", 7), ("b", 7)]
    for spread, value in zip(spreads, [4.0, 0.25], strict=True):
        np.testing.assert_array_equal(spread.counts, by_numpy([value]))


def test_a_checkpoint_and_the_optimizers_variables_are_as_without_histograms(tmp_path):
    named = []
    for watching in (False, True):
        variable = keras.Variable([1.0, 2.0], name="weight")
        optimizer = LossScaleOptimizer(keras.optimizers.Adam(), name="same")
        optimizer.build([variable])
        if watching:
            watched = [Watched("a", [variable], "float32")]
            optimizer.histograms = ExponentHistograms(watched, every=1)
        path = tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / str(watching)))
        named.append((tf.train.list_variables(path), [v.name for v in optimizer.variables]))
    assert named[0] == named[1]


@pytest.mark.parametrize(
    ("last", "steps", "within"),
    [(499, 499, False), (500, 50, True), (549, 49, False), (550, 51, True), (1700, 1200, True)],
)
def test_a_window_with_a_counted_step_is_known_without_the_device(last, steps, within):
    histograms = ExponentHistograms([Watched("a", [], "float32")], every=500)
    window = Window(step=last, rows={"loss": np.zeros(steps)}, seconds=1.0, examples=1)
    assert histograms.within(window) is within


@pytest.mark.parametrize(
    ("dtype", "values", "left", "right"),
    [
        ("float16", [2.0**-24, 65504.0], -27, 18),
        ("float32", [2.0**-40, 1.0], -48, 12),
        ("float32", [2.0**-149, 2.0**127], -151, 130),
        ("bfloat16", [2.0**-50, 2.0**10], -52, 13),
        ("float16", [0.0], -27, 18),
    ],
)
def test_buckets_have_the_exponents_between_zeros_and_non_finite(dtype, values, left, right):
    counts = by_numpy(values, [0.0, 0.0, np.nan])
    buckets = Spread("a", dtype, 1, counts).buckets
    assert buckets[0].tolist() == [left, left + 1, counts[0]]
    assert buckets[-1].tolist() == [right - 1, right, 1]
    np.testing.assert_array_equal(buckets[1:, 0], buckets[:-1, 1], "no holes")
    assert buckets[1, 2] == buckets[-2, 2] == 0, "a gap on either side"
    inner = {left: (right, count) for left, right, count in buckets[2:-2]}
    for exponent, count in zip(EXPONENTS, counts[1:-1], strict=True):
        assert inner.get(exponent, (exponent + 1, 0)) == (exponent + 1, count)
    assert buckets[:, 2].sum() == counts.sum()
