"""The histogram of gradients by exponent, against what the dtype can hold.

The figure of "Mixed Precision Training" (Micikevicius et al., ICLR 2018, figure 3), for the user's
own model: what lies left of the smallest number becomes zero.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mpt.probing.document import Findings
from mpt.probing.exponents import Histogram, limits
from mpt.probing.recommendation import histograms, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "activation_gradients": "Gradients of the activations between layers",
    "weight_gradients": "Gradients of the weights",
}
BARE, SCALED, LIMIT = "#9aa5b1", "#0b5cad", "#b42318"
FLOOR = 1e-4
"""The lowest share drawn, %."""


def draw(findings: Findings, folder: Path, plot: str) -> str:
    """Write histogram.svg or .png to `folder`; its name.

    Args:
        plot: "svg" or "png".
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scale = findings.recommendation.initial_scale or findings.scale
    before = histograms(findings.layers, None)
    after = histograms(findings.layers, scale)
    figure, axes = pyplot.subplots(2, 1, figsize=(9.0, 7.5), sharex=True, layout="constrained")
    try:
        low, high = _range([*before.values(), *after.values()], findings.dtype)
        for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
            axis.set_xlim(low - 3.5, high + 1.5)
            _limits(axis, findings.dtype, low, high)
            _bars(axis, before[kind], low, f"in {findings.reference}, unscaled")
            _steps(axis, after[kind], low, f"under {findings.policy}, loss scale {power(scale)}")
            axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
            axis.set_yscale("log")
            axis.set_ylim(FLOOR, 300)
            axis.set_ylabel("share of elements, %")
            axis.spines[["top", "right"]].set_visible(False)
        axes[1].set_xlabel("exponent, floor(log2 |gradient|)")
        _ticks(axes[1], low, high)
        axes[0].legend(loc="upper left", frameon=False, fontsize=8)
        figure.suptitle(f"{findings.model} under {findings.policy}", fontsize=11)
        name = f"probe.{plot}"
        figure.savefig(folder / name, dpi=120)
    finally:
        pyplot.close(figure)
    return name


def _range(found: list[Histogram], dtype: str) -> tuple[int, int]:
    """Exponents to draw: those that occur, and the dtype's limits where they are not far off."""
    exponents = [e for histogram in found for e in histogram.by_exponent()] or [0]
    low, high = min(exponents), max(exponents)
    bounds = limits(dtype)
    smallest, largest = math.log2(bounds.smallest), math.log2(bounds.largest)
    if smallest > low - 30:
        low = min(low, int(smallest) - 1)
    if largest < high + 30:
        high = max(high, int(largest) + 1)
    return low, high


def _shares(histogram: Histogram) -> tuple[dict[int, float], float, float]:
    total = histogram.total or 1
    by_exponent = {e: 100 * n / total for e, n in histogram.by_exponent().items()}
    return by_exponent, 100 * histogram.zeros / total, 100 * histogram.non_finite / total


def _bars(axis: Axes, histogram: Histogram, low: int, label: str) -> None:
    shares, zeros, _ = _shares(histogram)
    axis.bar(list(shares), list(shares.values()), width=1.0, align="edge", color=BARE, label=label)
    axis.bar([low - 2.5], [zeros], width=0.5, align="edge", color=BARE)


def _steps(axis: Axes, histogram: Histogram, low: int, label: str) -> None:
    shares, zeros, non_finite = _shares(histogram)
    if shares:
        edges = range(min(shares), max(shares) + 2)
        values = [shares.get(e, 0.0) for e in edges[:-1]]
        axis.stairs(values, list(edges), baseline=FLOOR, color=SCALED, linewidth=1.6, label=label)
    axis.bar([low - 2.0], [zeros], width=0.5, align="edge", color=SCALED)
    if non_finite:
        axis.annotate(
            f"not finite: {non_finite:.2g}%",
            (0.99, 0.6),
            xycoords="axes fraction",
            ha="right",
            color=LIMIT,
        )


def _limits(axis: Axes, dtype: str, low: int, high: int) -> None:
    """Shade what the dtype cannot hold, or not in full."""
    bounds = limits(dtype)
    smallest, normal = math.log2(bounds.smallest), math.log2(bounds.smallest_normal)
    largest = math.log2(bounds.largest)
    left, right = low - 1.0, high + 1.5
    zones: list[tuple[float, float, float, str]] = [
        (left, smallest, 0.16, f"zero in {dtype}"),
        (max(left, smallest), normal, 0.07, "subnormal"),
        (largest, right, 0.16, "overflow"),
    ]
    for start, end, strength, text in zones:
        if end <= start:
            continue
        axis.axvspan(start, end, color=LIMIT, alpha=strength, linewidth=0)
        axis.text((start + end) / 2, 220, text, ha="center", va="top", fontsize=8, color=LIMIT)
    for bound in (smallest, normal, largest):
        if left < bound < right:
            axis.axvline(bound, color=LIMIT, linewidth=0.8, linestyle=":")


def _ticks(axis: Axes, low: int, high: int) -> None:
    """Whole exponents, at most some fifteen of them, and the bar of zeros."""
    step = max(1, math.ceil((high - low) / 15))
    exponents = [e for e in range(low, high + 2) if e % step == 0]
    labels = [f"$2^{{{e}}}$" for e in exponents]
    axis.set_xticks([low - 2.0, *exponents], ["zero", *labels])
