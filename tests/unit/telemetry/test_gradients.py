"""Gradient statistics against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from mpt.telemetry import gradients


def measured(values, jit):
    function = tf.function(gradients.norm_and_finite, jit_compile=jit)
    norm, finite = function([tf.constant(value) for value in values])
    assert norm.dtype == tf.float32
    return float(norm), bool(finite)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_norm_is_numpys(dtype, jit):
    generator = np.random.default_rng(0)
    values = [generator.normal(size=shape).astype(dtype) for shape in [(7, 3), (5,), ()]]
    expected = np.linalg.norm(np.concatenate([v.astype("float64").ravel() for v in values]))
    norm, finite = measured(values, jit)
    assert norm == pytest.approx(expected, rel=1e-6)
    assert finite


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_element_anywhere_is_seen(bad, jit):
    for place in range(4):
        values = [np.ones(2, "float32"), np.ones(2, "float32")]
        values[place // 2][place % 2] = bad
        norm, finite = measured(values, jit)
        assert not finite
        assert not math.isfinite(norm)


@pytest.mark.parametrize("jit", [False, True])
def test_finite_elements_whose_squares_overflow_are_finite(jit):
    norm, finite = measured([np.array([3e25, 4e25], "float32")], jit)
    assert finite
    assert norm == pytest.approx(5e25, rel=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_elements_whose_squares_vanish_still_have_a_norm(jit):
    norm, finite = measured([np.array([3e-25, 4e-25], "float32"), np.zeros(2, "float32")], jit)
    assert finite
    assert norm == pytest.approx(5e-25, rel=1e-6)


def test_all_zero_gradients_have_norm_zero():
    assert measured([np.zeros(3, "float32")], False) == (0.0, True)


def test_float16_gradients_do_not_overflow_in_their_sum_of_squares():
    assert measured([np.full(100, 1000, "float16")], False) == (pytest.approx(10000), True)


def test_the_values_of_slices_are_measured():
    slices = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 5]), [9, 1])
    norm, finite = gradients.norm_and_finite([slices])
    assert (float(norm), bool(finite)) == (5.0, True)
    assert float(gradients.extent([slices], "float16").max_abs) == 4.0


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_extent_counts_zeros_and_float16_subnormals(dtype, jit):
    values = np.array([0.0, -0.0, 2.0**-15, -(2.0**-24), 2.0**-14, 8.0, -40.0, 1.0], dtype)
    function = tf.function(lambda *g: gradients.extent(g, "float16"), jit_compile=jit)
    found = function(tf.constant(values[:3]), tf.constant(values[3:]))
    assert float(found.max_abs) == 40.0
    assert float(found.zero_fraction) == 2 / 8
    assert float(found.subnormal_fraction) == 2 / 8


def test_bfloat16_has_float32s_range():
    found = gradients.extent([tf.constant([1e-6, 0.0])], "bfloat16")
    assert float(found.subnormal_fraction) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_largest_element_of_an_overflow_is_infinite(bad):
    assert float(gradients.extent([tf.constant([1.0, bad, 2.0])], "float16").max_abs) == math.inf


@pytest.mark.parametrize(
    ("max_abs", "dtype", "bits"),
    [
        (65504.0, "float16", 0.0),
        (65504.0 / 8, "float16", 3.0),
        (65504.0 * 2, "float16", -1.0),
        (1.0, "bfloat16", 128.0),
        (1.0, "float32", 128.0),
        (0.0, "float16", math.inf),
        (math.inf, "float16", -math.inf),
    ],
)
def test_headroom(max_abs, dtype, bits):
    assert gradients.headroom_bits(max_abs, dtype) == pytest.approx(bits, abs=0.01)


def test_headroom_of_nan_is_nan():
    assert math.isnan(gradients.headroom_bits(math.nan, "float16"))
