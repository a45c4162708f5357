"""How long each run took to reach a value of the metric."""

import math
from statistics import median

from mpt.comparison.groups import succeeded
from mpt.comparison.parity import margin_of
from mpt.comparison.result import Curve, Group
from mpt.comparison.statistics import spread


def default_target(
    baseline: Group, tag: str, points: float, higher_is_better: bool | None
) -> float | None:
    """The baseline's median best value, less the margin: what counts as the same as its best.

    So at least half of the baseline's runs reach it. None where it is not known.
    """
    if baseline.best is None or higher_is_better is None:
        return None
    margin = margin_of(tag, points, baseline)
    best = median(baseline.best.values)
    return best - margin if higher_is_better else best + margin


def measure(group: Group, tag: str, target: float, higher_is_better: bool | None) -> None:
    """Fill `target` and `seconds_to_target`, from the runs that reached it."""
    group.target = target
    if higher_is_better is None:
        return
    times = [
        seconds_to(run.curves[tag], target, higher_is_better)
        for run in succeeded(group)
        if tag in run.curves
    ]
    group.seconds_to_target = spread([each for each in times if each is not None])


def seconds_to(curve: Curve, target: float, higher_is_better: bool) -> float | None:
    """Wall time until the curve first reached `target`, s; None where it did not."""
    if curve.seconds is None:
        return None
    for seconds, value in zip(curve.seconds, curve.values, strict=True):
        if math.isfinite(value) and (value >= target if higher_is_better else value <= target):
            return float(seconds)
    return None
