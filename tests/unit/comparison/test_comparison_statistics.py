"""Intervals and tests against scipy.stats."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mpt.comparison.statistics import difference, paired, spread, welch

A = [1.1, 0.9, 1.4, 1.2, 1.05]
B = [0.8, 0.95, 1.0, 1.1, 0.7]


def test_paired_interval_is_that_of_scipy() -> None:
    expected = stats.ttest_rel(A, B).confidence_interval(0.95)
    found = paired([a - b for a, b in zip(A, B, strict=True)]).interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.estimate == pytest.approx(np.mean(A) - np.mean(B))
    assert (found.count, found.paired, found.level) == (5, True, 0.95)


@pytest.mark.parametrize("baseline", [B, B[:3]])
def test_welch_interval_is_that_of_scipy(baseline: list[float]) -> None:
    expected = stats.ttest_ind(A, baseline, equal_var=False).confidence_interval(0.95)
    found = welch(A, baseline).interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.count, found.paired) == (len(baseline), False)


@pytest.mark.parametrize("margin", [0.05, 0.3, 1.0])
def test_equivalence_is_two_one_sided_tests(margin: float) -> None:
    differences = [a - b for a, b in zip(A, B, strict=True)]
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert paired(differences).equivalence(margin) == pytest.approx(max(above, below))


def test_equivalence_of_unpaired_values() -> None:
    above = stats.ttest_ind(np.add(A, 0.5), B, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(np.subtract(A, 0.5), B, equal_var=False, alternative="less").pvalue
    assert welch(A, B).equivalence(0.5) == pytest.approx(max(above, below))


def test_equal_values_are_equivalent_within_any_margin_but_none() -> None:
    found = paired([0.0] * 5)
    assert found.equivalence(0.001) == 0
    assert found.equivalence(0.0) == 1
    assert (found.interval().low, found.interval().high) == (0, 0)
    assert paired([0.01] * 5).equivalence(0.001) == 1
    assert welch([1.0, 1.0], [1.0, 1.0]).equivalence(0.1) == 0


def test_one_value_has_no_interval() -> None:
    for found in (paired([0.5]), welch([1.0], [0.5, 0.6])):
        assert found.interval().low is None
        assert found.interval().high is None
        assert found.equivalence(1.0) is None


def test_pairs_by_seed_where_seeds_agree() -> None:
    ours = [(3, 1.0), (1, 2.0), (2, 3.0), (9, 50.0)]
    theirs = [(1, 1.5), (2, 2.0), (3, 0.5)]
    found = difference(ours, theirs)
    assert found is not None
    assert (found.paired, found.count) == (True, 3)
    assert found.estimate == pytest.approx(np.mean([0.5, 0.5, 1.0]))


def test_a_seed_that_ran_twice_is_one_pair() -> None:
    found = difference([(0, 1.0), (0, 3.0), (1, 2.0)], [(0, 1.0), (1, 1.0)])
    assert found is not None
    assert (found.count, found.estimate) == (2, 1.0)


def test_other_seeds_are_not_paired() -> None:
    found = difference([(0, 1.0), (1, 2.0)], [(1, 1.0), (2, 2.0)])
    assert found is not None
    assert not found.paired
    assert difference([], [(0, 1.0)]) is None


def test_spread_is_median_and_range() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (2.5, 1.0, 10.0, 4)
    assert found.values == (3.0, 1.0, 2.0, 10.0)
    assert spread([]) is None
    assert not math.isnan(found.median)


def test_values_too_large_to_square_are_known_to_nothing() -> None:
    for found in (paired([1e300, -1e300, 0.0]), welch([1e300, 0.0], [0.0, 1.0])):
        assert found.standard_error > 1e200
        assert found.interval().high is not None
        assert found.interval().high > 1e300
        assert found.equivalence(1.0) == pytest.approx(0.5, abs=0.4)


@pytest.mark.parametrize(
    ("values", "baseline"),
    [
        ([(0, 1e308), (1, 8e307)], [(0, 0.1), (1, 0.2)]),
        ([(0, 1e308), (1, 8e307), (2, 1e308)], [(5, 1e308), (6, 1e308)]),
        ([(0, 1.7e308), (1, -1.7e308)], [(0, -1.7e308), (1, 1.7e308)]),
        ([(0, 1.7e308), (0, 1.7e308)], [(0, -1.7e308)]),
    ],
)
def test_values_too_large_to_add_are_no_error(values: list[Any], baseline: list[Any]) -> None:
    found = difference(values, baseline)
    assert found is not None
    assert math.isfinite(found.estimate)
    found.interval()
    found.equivalence(0.1)


def test_the_mean_of_large_values_is_their_mean() -> None:
    assert paired([1.2e308, 1.6e308]).estimate == pytest.approx(1.4e308)


def test_five_seeds_that_are_all_of_one_side_are_pairs_however_many_the_other_has() -> None:
    many = [(seed, 10.0 * seed) for seed in range(12)]
    few = [(seed, 10.0 * seed + 1) for seed in range(5)]
    found = difference(few, many)
    assert found is not None
    assert found.estimate == 1
    assert found.interval().count == 5
    four = difference(few[:4], many)
    assert four is not None
    assert four.estimate == pytest.approx(16 - 55)
