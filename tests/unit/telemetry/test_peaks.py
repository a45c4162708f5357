"""Peaks beside what NumPy reaches on the same processor, and what is counted of each."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mpt.telemetry import peaks
from mpt.telemetry.peaks import bandwidth, convolution_peak, known_matmul_peak, matmul_peak
from mpt.tuning_cache import TuningCache


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


@pytest.mark.parametrize("kept", ["fast", -1.0, 0.0, float("inf"), float("nan"), None, True])
def test_a_kept_peak_that_is_none_is_measured_anew(monkeypatch, tmp_path, kept):
    monkeypatch.setattr(peaks, "matmul_peak", lambda dtype: 2e12)
    cache = TuningCache({}, tmp_path / "tuning.json")
    subject = {"what": "matrix product", "dtype": "float32", "tf32": True}
    cache.put({"flops_per_second": kept}, **subject)
    assert known_matmul_peak("float32", cache, tf32=True) == 2e12
    assert cache.get(**subject) == {"flops_per_second": 2e12}


def test_float32_and_tensor_float_32_have_peaks_of_their_own(monkeypatch, tmp_path):
    found = iter([1e12, 8e12])
    monkeypatch.setattr(peaks, "matmul_peak", lambda dtype: next(found))
    cache = TuningCache({}, tmp_path / "tuning.json")
    for _ in range(2):
        assert known_matmul_peak("float32", cache) == 1e12
        assert known_matmul_peak("float32", cache, tf32=True) == 8e12


def test_a_dtype_without_products_has_no_peak_to_keep(tmp_path):
    assert known_matmul_peak("string", TuningCache({}, tmp_path / "tuning.json")) is None
    assert not list(tmp_path.iterdir())
