"""Peaks beside what NumPy reaches on the same processor, and what is counted of each."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mpt.telemetry import peaks
from mpt.telemetry.peaks import bandwidth, convolution_peak, matmul_peak


def seconds_of(work):
    work()
    start = time.perf_counter()
    for _ in range(5):
        work()
    return (time.perf_counter() - start) / 5


def test_the_peak_is_a_rate_and_unknown_dtypes_have_none():
    a = np.ones((512, 512), "float32")
    by_numpy = 2 * 512**3 / seconds_of(lambda: a @ a)
    assert 0.2 < matmul_peak("float32") / by_numpy < 20
    assert matmul_peak("string") is None
    assert convolution_peak("string") is None
    assert bandwidth("bool") is None


def test_convolutions_are_products_that_are_laid_out_otherwise():
    assert 0.05 < convolution_peak("float32") / matmul_peak("float32") < 5


def test_memory_is_as_fast_as_numpy_finds_it():
    a, out = np.ones(2**23, "float32"), np.empty(2**23, "float32")
    by_numpy = 3 * a.nbytes / seconds_of(lambda: np.add(a, a, out=out))
    assert 0.2 < bandwidth("float32") / by_numpy < 20


@pytest.mark.parametrize(
    ("peak", "limit", "work"),
    [
        (matmul_peak, {"LARGEST": peaks.SMALLEST}, 2 * peaks.SMALLEST**3),
        (
            convolution_peak,
            {"MOST": 1, "FEWEST": 1, "IMAGES": ((8, 4),)},
            2 * 8 * 8 * 4 * 4 * 9,
        ),
        (bandwidth, {"SMALL": 4096, "LARGE": 4096}, 3 * 4096),
    ],
)
def test_what_goes_by_around_the_work_is_shared_by_many(monkeypatch, peak, limit, work):
    """On a GPU it is over before the host has asked for it: here, in 5 ms more a timing."""
    readings = itertools.count()
    late = SimpleNamespace(perf_counter=lambda: time.perf_counter() + 0.005 * next(readings))
    monkeypatch.setattr(peaks, "time", late)
    for name, value in limit.items():
        monkeypatch.setattr(peaks, name, value)
    one_a_timing = work / 0.005
    assert 5 * one_a_timing < peak("float32") < 17 * one_a_timing
