"""Counts by exponent equal NumPy's frexp; limits equal ml_dtypes'."""

import ml_dtypes
import numpy as np
import pytest

from mpt.probing import exponents
from mpt.probing.exponents import Histogram, limits, unit_roundoff

DTYPES = ("float16", "bfloat16", "float32", "float64")


def awkward(dtype, size):
    """Numbers over the dtype's whole range, its subnormal ones, both zeros, NaN and infinities."""
    info = ml_dtypes.finfo(dtype)
    random = np.random.default_rng(0)
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max))
    spread = np.exp2(random.uniform(low, high - 0.1, size)) * random.choice([-1.0, 1.0], size)
    spread[::7] = 0.0
    edges = [0.0, -0.0, info.max, info.smallest_normal, info.smallest_subnormal]
    edges += [float(info.smallest_normal) * 0.75, 1.0, -1.0, np.nan, np.inf, -np.inf]
    return np.concatenate([spread, np.array(edges, dtype="float64")]).astype(dtype)


def counted_by_frexp(values):
    values = values.astype("float64")
    good = values[np.isfinite(values) & (values != 0)]
    found, counts = np.unique(np.frexp(good)[1] - 1, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_equal_frexp_s(dtype):
    values = awkward(dtype, 5000)
    histogram = Histogram()
    histogram.add(values)
    assert histogram.by_exponent() == counted_by_frexp(values)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.non_finite == 3
    assert histogram.total == values.size


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_pieces_and_shapes_do_not_matter(dtype, monkeypatch):
    values = awkward(dtype, 1000 - 11).reshape(10, 4, 25)
    whole, parts = Histogram(), Histogram()
    whole.add(values)
    monkeypatch.setattr(exponents, "CHUNK", 7)
    for row in values:
        part = Histogram()
        part.add(row)
        parts.merge(part)
    assert parts.by_exponent() == whole.by_exponent()
    assert (parts.zeros, parts.non_finite) == (whole.zeros, whole.non_finite)


def test_nothing_is_counted_of_nothing():
    histogram = Histogram()
    histogram.add(np.zeros((0, 3), "float32"))
    assert (histogram.total, histogram.by_exponent()) == (0, {})


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_are_those_of_the_format(dtype):
    info = ml_dtypes.finfo(dtype)
    found = limits(dtype)
    assert found.largest == float(info.max)
    assert found.smallest_normal == float(info.smallest_normal)
    assert found.smallest == float(info.smallest_subnormal)
    assert unit_roundoff(dtype) == float(info.eps) / 2
