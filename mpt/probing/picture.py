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
from mpt.probing.recommendation import histograms
from mpt.report.numbers import power_of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "activation_gradients": "Gradients of the activations between layers",
    "weight_gradients": "Gradients of the weights",
}
BARE, SCALED, LIMIT = "#9aa5b1", "#0b5cad", "#b42318"
SHARES = ["0.0001", "0.001", "0.01", "0.1", "1", "10", "100"]
FLOOR, TOP = 1e-4, 1500.0
"""The lowest share drawn, and the axis's upper end, %."""


def draw(findings: Findings, folder: Path, plot: str) -> str:
    """Write histogram.svg or .png to `folder`; its name.

    Args:
        plot: "svg" or "png".
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scale = findings.recommendation.initial_scale or findings.scale
    before = histograms(findings.layers, None)
    after = histograms(findings.layers, scale)
    low, high = _range([*before.values(), *after.values()], findings.dtype)
    figure = Figure(figsize=(9.0, 7.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, (kind, title) in zip(axes, TITLES.items(), strict=True):
        _frame(axis, title, low, high)
        _limits(axis, findings.dtype, low, high)
        _bars(axis, before[kind], low, high, f"in {findings.reference}, unscaled")
        label = f"under {findings.policy}, loss scale {_power(scale)}"
        _steps(axis, after[kind], low, high, label)
    _ticks(axes[1], findings.dtype, low, high)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(
        f"{findings.model} under {findings.policy}, {findings.batches * findings.batch_size} "
        "examples: gradients in half precision by exponent",
        fontsize=11,
    )
    name = f"probe.{plot}"
    with rc_context({"svg.hashsalt": "mpt"}):  # the same picture has the same file
        figure.savefig(folder / name, dpi=120, metadata={"Date": None} if plot == "svg" else None)
    return name


def _frame(axis: Axes, title: str, low: int, high: int) -> None:
    axis.set_xlim(low - 4.5 * _zero_width(low, high), high + 1.5)
    axis.set_yscale("log")
    axis.set_ylim(FLOOR, TOP)
    axis.set_yticks([float(label) for label in SHARES], SHARES)
    axis.minorticks_off()
    axis.set_ylabel("share of elements, %")
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)


def _zero_width(low: int, high: int) -> float:
    """Width of the bars of zeros, for which there is no place on the axis of exponents."""
    return max(0.7, (high - low) / 55)


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


def _bars(axis: Axes, histogram: Histogram, low: int, high: int, label: str) -> None:
    shares, zeros, _ = _shares(histogram)
    axis.bar(list(shares), list(shares.values()), width=1.0, align="edge", color=BARE, label=label)
    width = _zero_width(low, high)
    _zero_bar(axis, low - 3 * width, width, zeros, BARE)


def _steps(axis: Axes, histogram: Histogram, low: int, high: int, label: str) -> None:
    shares, zeros, non_finite = _shares(histogram)
    if shares:
        edges = range(min(shares), max(shares) + 2)
        values = [shares.get(e, 0.0) for e in edges[:-1]]
        axis.stairs(values, list(edges), baseline=FLOOR, color=SCALED, linewidth=1.6, label=label)
    width = _zero_width(low, high)
    _zero_bar(axis, low - 2 * width, width, zeros, SCALED)
    if non_finite:
        axis.annotate(
            f"not finite: {non_finite:.2g}%",
            (0.99, 0.6),
            xycoords="axes fraction",
            ha="right",
            color=LIMIT,
        )


def _zero_bar(axis: Axes, x: float, width: float, share: float, color: str) -> None:
    axis.bar([x], [share], width=width, align="edge", color=color)
    if share >= FLOOR:
        axis.annotate(
            f"{share:.2g}%",
            (x + width / 2, share),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=7,
            color=color,
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
        above = start == largest
        bound = start if above else end
        axis.axvline(bound, color=LIMIT, linewidth=0.8, linestyle=":")
        upright = end - start < (high - low) / 9
        axis.annotate(
            text,
            (bound, TOP),
            xytext=(4 if above else -4, -4),
            textcoords="offset points",
            rotation=90 if upright else 0,
            ha="left" if above else "right",
            va="top",
            fontsize=8,
            color=LIMIT,
        )


def _power(scale: float) -> str:
    text = power_of_two(scale)
    return f"$2^{{{text[2:]}}}$" if text.startswith("2^") else text


def _ticks(axis: Axes, dtype: str, low: int, high: int) -> None:
    """Whole exponents, at most some fifteen of them, and the bars of zeros."""
    width = _zero_width(low, high)
    step = max(1, math.ceil((high - low) / 15))
    exponents = [e for e in range(low, high + 2) if e % step == 0 and e > low + width]
    labels = [f"$2^{{{e}}}$" for e in exponents]
    axis.set_xticks([low - 2 * width, *exponents], ["zero", *labels])
    label = "exponent, floor(log2 |gradient|)"
    bounds = limits(dtype)
    if math.log2(bounds.smallest) < low:
        label += f"; {dtype} holds numbers down to {_power(bounds.smallest)}"
    axis.set_xlabel(label)
