"""Groups as they are drawn: colour by policy, dashes among those of one policy, merged curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpt.comparison.result import Curve, Group, Run

POINTS = 240
"""Most points of a drawn curve: about two a pixel of a phone."""
FEW = 3
"""Up to so many runs are drawn each; more, as their median and range."""
COLOURS = {
    "float64": "wide",
    "float32": "wide",
    "tf32": "tf32",
    "mixed_bfloat16": "bf16",
    "mixed_float16": "fp16",
    "bfloat16": "purebf16",
    "float16": "purefp16",
}


@dataclass(frozen=True)
class Series:
    """A group and the CSS classes that draw it."""

    group: Group
    colour: str
    dash: str

    @property
    def line(self) -> str:
        return f"{self.colour} {self.dash}".strip()


def series(groups: Sequence[Group]) -> list[Series]:
    """Every group with its colour; the second of one policy is dashed, and so on."""
    seen: dict[str, int] = {}
    found = []
    for group in groups:
        colour = COLOURS.get(group.policy, "other")
        count = seen.get(colour, 0)
        seen[colour] = count + 1
        found.append(Series(group, colour, f"d{count % 4}" if count % 4 else ""))
    return found


@dataclass(frozen=True)
class Merged:
    """Curves of several runs on one grid: x, median, lowest and highest; NaN where too few go on.

    Attributes:
        ends: where a run's values stopped being finite, (x, last finite value).
        lines: each run's own values on its own x, where the runs are few.
    """

    x: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: list[tuple[float, float]]
    lines: list[tuple[np.ndarray, np.ndarray]]


def merge(runs: Sequence[Run], tag: str, *, by_time: bool) -> Merged | None:
    """The runs' curves of `tag` over steps, or over seconds of training; None: there is none."""
    curves = [line for run in runs if (line := _line(run.curves.get(tag), by_time)) is not None]
    if not curves:
        return None
    ends = [end for x, y in curves if (end := _end(x, y)) is not None]
    longest = max(curves, key=lambda line: line[0][-1])[0]
    first = min(float(x[0]) for x, _ in curves)
    if len(longest) <= POINTS and not by_time:
        grid = longest
    else:
        grid = np.linspace(first, float(longest[-1]), POINTS)
    rows = np.stack([_on(grid, x, y) for x, y in curves])
    counted = np.isfinite(rows).sum(axis=0)
    rows = rows[:, counted * 2 >= len(curves)]
    grid = grid[counted * 2 >= len(curves)]
    if not rows.size:
        rows, grid = np.full((1, 1), np.nan), np.array([first])
    lines = [_thinned(x, y) for x, y in curves] if len(runs) <= FEW else []
    if np.isnan(rows).all():
        median = low = high = np.full(len(grid), np.nan)
    else:
        median, low, high = (f(rows, axis=0) for f in (np.nanmedian, np.nanmin, np.nanmax))
    return Merged(grid, median, low, high, ends, lines)


def _line(curve: Curve | None, by_time: bool) -> tuple[np.ndarray, np.ndarray] | None:
    if curve is None or not len(curve.values):
        return None
    x = curve.seconds if by_time else curve.steps
    if x is None:
        return None
    return np.asarray(x, dtype=float), np.asarray(curve.values, dtype=float)


def _on(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`y` on `grid`; NaN outside of the run, and where it was not finite.

    Of several values between two points of the grid only those beside a point count: curves that
    are drawn at 240 points lose spikes narrower than that.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    return np.interp(grid, x, y, left=np.nan, right=np.nan)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points: of each stretch of the curve the lowest and the highest."""
    if len(x) <= POINTS:
        return x, y
    kept: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), POINTS // 2):
        values = y[part]
        if np.isfinite(values).any():
            kept |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
        if not np.isfinite(values).all():
            kept.add(int(part[np.argmax(~np.isfinite(values))]))
    index = sorted(kept)
    return x[index], y[index]


def _end(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """The last finite point of a curve that ends in NaN or infinity."""
    if np.isfinite(y[-1]) or not np.isfinite(y).any():
        return None
    last = int(np.flatnonzero(np.isfinite(y))[-1])
    return float(x[last]), float(y[last])
