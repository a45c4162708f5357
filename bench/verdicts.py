"""What figures come to: ratios, targets, shares of the ceiling, agreement of losses."""

from collections.abc import Iterable
from math import exp, isfinite, log
from statistics import fmean
from typing import Any

HALVES = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16", "tf32": "tf32"}


def geometric_mean(values: Iterable[float]) -> float | None:
    """None where there are no values."""
    logarithms = [log(value) for value in values]
    return exp(fmean(logarithms)) if logarithms else None


def peak_of(peaks: dict[str, Any], policy: str) -> float | None:
    """The measured rate of matrix products in the policy's dtype, FLOP/s; None: not measured."""
    rates = peaks.get("peaks", {}).get(HALVES.get(policy, "float32"), {})
    return rates.get("matmul_flops_per_second")


def agreement(
    curves: dict[str, list[float]], first: float, last: float, count: int
) -> dict[str, Any]:
    """Whether the sides' losses lie together.

    Args:
        curves: a loss for each step, by side.
        first: how far apart the first losses may lie, over the largest of them.
        last: the same of the mean of the last `count`.
    """
    firsts = {side: curve[0] for side, curve in curves.items()}
    lasts = {side: fmean(curve[-count:]) for side, curve in curves.items()}
    apart = {"first": _spread(firsts.values()), "last": _spread(lasts.values())}
    return {
        "steps": min(map(len, curves.values())),
        "first": firsts,
        "last": lasts,
        "apart": apart,
        "tolerance": {"first": first, "last": last},
        "agree": apart["first"] <= first and apart["last"] <= last,
    }


def _spread(values: Iterable[float]) -> float:
    """How far apart values lie, over the largest; infinite where one is no number."""
    found = list(values)
    if not all(map(isfinite, found)):
        return float("inf")
    largest = max(map(abs, found))
    return (max(found) - min(found)) / largest if largest else 0.0


def ratios(times: dict[str, list[float]], ours: str, peer: str) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(times[ours], times[peer], strict=True)]
