"""Spreads, confidence intervals and the equivalence test, for a handful of values each.

Student's t throughout: of paired differences where runs pair up by seed, else Welch's (B. L. Welch,
"The generalization of 'Student's' problem", Biometrika 34, 1947). Equivalence by two one-sided
tests (D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987). scipy.special is all that is taken
of scipy, as scipy.stats takes a second to import; and only when needed, so --help need not wait.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

from mpt.comparison.result import Interval, Spread

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A difference of means, and how well it is known.

    Attributes:
        estimate: group minus baseline.
        standard_error: NaN where there is one value.
        degrees: of freedom.
        count: pairs, or the smaller side's values.
        paired: the values were paired.
        left_out: values that have no partner.
    """

    estimate: float
    standard_error: float
    degrees: float
    count: int
    paired: bool
    left_out: int = 0

    def interval(self, level: float = LEVEL) -> Interval:
        """The confidence interval; without ends where there is one value only."""
        if math.isnan(self.standard_error):
            return self._interval(None, None, level)
        half = self.standard_error * _quantile(self.degrees, (1 + level) / 2)
        return self._interval(self.estimate - half, self.estimate + half, level)

    def equivalence(self, margin: float) -> float | None:
        """The p-value of TOST: small where the difference lies within +- margin.

        None where there is one value only.
        """
        if math.isnan(self.standard_error):
            return None
        if self.standard_error == 0:
            return 0.0 if abs(self.estimate) < margin else 1.0
        above = (self.estimate + margin) / self.standard_error
        below = (self.estimate - margin) / self.standard_error
        return max(_below(self.degrees, -above), _below(self.degrees, below))

    def _interval(self, low: float | None, high: float | None, level: float) -> Interval:
        return Interval(self.estimate, low, high, level, self.count, self.paired, self.left_out)


def spread(values: Sequence[float]) -> Spread | None:
    """Median and range; None where there is no value."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values), tuple(values))


def paired(differences: Sequence[float], left_out: int = 0) -> Difference:
    """The mean of paired differences; at least one."""
    count = len(differences)
    error = math.sqrt(_variance(differences) / count) if count > 1 else math.nan
    return Difference(_mean(differences), error, count - 1, count, True, left_out)


def welch(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """The difference of two means, at least one value each."""
    estimate = _minus(_mean(values), _mean(baseline))
    count = min(len(values), len(baseline))
    if count < 2:
        return Difference(estimate, math.nan, math.nan, count, paired=False)
    parts = [_variance(side) / len(side) for side in (values, baseline)]
    total = sum(parts)
    if total == 0 or total > 1e150:  # its square is no number
        return Difference(estimate, math.sqrt(total), count - 1, count, paired=False)
    sizes = (len(values), len(baseline))
    degrees = total**2 / sum(p**2 / (n - 1) for p, n in zip(parts, sizes, strict=True))
    return Difference(estimate, math.sqrt(total), degrees, count, paired=False)


def difference(
    values: Sequence[tuple[int, float]], baseline: Sequence[tuple[int, float]]
) -> Difference | None:
    """Two groups of (seed, value): paired by seed where seeds agree, else Welch's.

    Seeds agree where there are two pairs, and at least half as many as either side has values, or
    five that are all seeds of one side: few pairs of many runs would leave most of what was
    measured unsaid. A seed that ran several times is one pair, by its mean. None where a side is
    empty.
    """
    if not values or not baseline:
        return None
    ours, theirs = dict(once_a_seed(values)), dict(once_a_seed(baseline))
    common = sorted(ours.keys() & theirs.keys())
    most = max(len(values), len(baseline))
    enough = len(common) > 1 and 2 * len(common) >= most
    covered = len(common) >= 5 and len(common) == min(len(ours), len(theirs))
    if enough or covered or (common and most == 1):
        left_out = sum(seed not in common for seed, _ in (*values, *baseline))
        return paired([_minus(ours[seed], theirs[seed]) for seed in common], left_out)
    return welch([value for _, value in values], [value for _, value in baseline])


def once_a_seed(values: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """(seed, value) with each seed once, by its mean: its repeats are no further draws."""
    found: dict[int, list[float]] = {}
    for seed, value in values:
        found.setdefault(seed, []).append(value)
    return [(seed, _mean(several)) for seed, several in found.items()]


def _mean(values: Sequence[float]) -> float:
    try:
        return fmean(values)
    except OverflowError:  # of the sum
        return math.fsum(value / len(values) for value in values)


def _minus(value: float, other: float) -> float:
    """The difference; where it is larger than any float, the largest one."""
    return max(-sys.float_info.max, min(value - other, sys.float_info.max))


def _variance(values: Sequence[float]) -> float:
    """The sample variance; infinite where it is too large for a float."""
    try:
        return variance(values)
    except OverflowError:
        return math.inf


def _quantile(degrees: float, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def _below(degrees: float, value: float) -> float:
    """Probability of Student's t below `value`."""
    from scipy.special import stdtr

    return float(stdtr(degrees, value))
