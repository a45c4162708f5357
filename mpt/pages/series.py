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
    """The runs' curves of `tag` over steps, or over seconds of training; None: there is none.

    Runs are merged step by step as far as half of them went. Over time a step lies where the
    median run reached it: runs that start to log at different moments would make jumps otherwise.
    """
    curves = [line for run in runs if (line := _line(run.curves.get(tag), by_time)) is not None]
    if not curves:
        return None
    longest = max((line.steps for line in curves), key=lambda steps: float(steps[-1]))
    first = min(float(line.steps[0]) for line in curves)
    grid = longest if len(longest) <= POINTS else np.linspace(first, longest[-1], POINTS)
    rows = np.stack([_on(grid, line.steps, line.y) for line in curves])
    times = np.stack([_on(grid, line.steps, line.x) for line in curves])
    kept = np.isfinite(rows).sum(axis=0) * 2 >= len(curves)
    ends = [end for line in curves if (end := _end(line)) is not None]
    lines = [_thinned(line.x, line.y) for line in curves] if len(runs) <= FEW else []
    if not kept.any():
        nothing = np.array([np.nan])
        return Merged(np.array([float(curves[0].x[0])]), nothing, nothing, nothing, ends, lines)
    rows = rows[:, kept]
    with np.errstate(over="ignore"):  # the median of two values halves their sum
        x = np.nanmedian(times[:, kept], axis=0)
        median, low, high = (f(rows, axis=0) for f in (np.nanmedian, np.nanmin, np.nanmax))
    return Merged(x, median, low, high, ends, lines)


@dataclass(frozen=True)
class _Line:
    steps: np.ndarray
    x: np.ndarray
    y: np.ndarray


def _line(curve: Curve | None, by_time: bool) -> _Line | None:
    if curve is None or not len(curve.values) or (by_time and curve.seconds is None):
        return None
    steps = np.asarray(curve.steps, dtype=float)
    x = np.asarray(curve.seconds, dtype=float) if by_time else steps
    return _Line(steps, x, np.asarray(curve.values, dtype=float))


def _on(grid: np.ndarray, steps: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`y` on `grid`; NaN outside of the run, and where it was not finite.

    Of several values between two points of the grid only those beside a point count: merged
    curves lose spikes narrower than that.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    return np.interp(grid, steps, y, left=np.nan, right=np.nan)


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


def _end(line: _Line) -> tuple[float, float] | None:
    """The last finite point of a curve that ends in NaN or infinity."""
    finite = np.flatnonzero(np.isfinite(line.y))
    if not finite.size or finite[-1] == len(line.y) - 1:
        return None
    return float(line.x[finite[-1]]), float(line.y[finite[-1]])
