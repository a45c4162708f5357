"""What happened over training: curves by step and by wall time, and the loss scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mpt.comparison.result import Run
from mpt.pages import html
from mpt.pages.cells import Cell, Column, Table
from mpt.pages.series import FEW, Merged, Series, merge
from mpt.pages.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, Figure, Point
from mpt.report.numbers import number, size

ROWS_OF_NUMBERS = 12
"""Points of a curve that its table shows."""
LARGEST = 1e300
"""Larger values are off the axis: the distance between two of them would be no number."""


def curves(drawn: Sequence[Series], tag: str) -> list[str]:
    """A tag over steps, and over wall time; a plot that no run has is left out."""
    return [
        _curves(drawn, tag, by_time=False, label="step"),
        _curves(drawn, tag, by_time=True, label="seconds of training"),
    ]


def _curves(drawn: Sequence[Series], tag: str, *, by_time: bool, label: str) -> str:
    merged = [(each, merge(each.group.runs, tag, by_time=by_time)) for each in drawn]
    found = [(each, line) for each, line in merged if line is not None]
    if not found:
        return ""
    over = "wall time" if by_time else "steps"
    caption = f"{tag} by {'wall time' if by_time else 'step'}"
    ends = [f"{s.group.label} ends at {number(line.median[-1])}" for s, line in found]
    key = f"curve-{over.replace(' ', '-')}-{tag}"
    picture = Figure(key, caption, "; ".join(ends) + ".", WIDTH, 260)
    x = Axis(
        min(0.0, *(float(line.x[0]) for _, line in found)),
        max(float(line.x[-1]) for _, line in found),
        LEFT,
        WIDTH - RIGHT,
    )
    if x.high <= x.low:
        x.high = x.low + 1
    y = y_axis([line for _, line in found], 260 - BOTTOM)
    clip = picture.clip(LEFT, TOP - 3, WIDTH - LEFT - RIGHT, 260 - BOTTOM - TOP + 6)
    picture.frame(x, y, x_text=number, y_text=_unit(tag), x_label=label)
    for each, line in found:
        _draw(picture, each, line, x, y, clip)
    single = all(len(each.group.runs) <= FEW for each, _ in found)
    if not single:
        caption += ": median and range"
    numbers = _curve_numbers(key, caption, label, found, _unit(tag))
    return html.figure(str(picture), caption, html.table(numbers))


def _unit(tag: str) -> Callable[[float], str]:
    """How a tag's values are written."""
    return size if tag.startswith("memory/") else number


def y_axis(lines: Sequence[Merged], bottom: float) -> Axis:
    """From the lowest to the highest of the lines that go on to the end; a run that explodes
    runs out of the picture rather than flattening the others.
    """
    lasting = [line for line in lines if not line.ends] or list(lines)
    values = np.concatenate([np.concatenate([line.low, line.high]) for line in lasting])
    values = values[np.abs(values) < LARGEST]
    if not values.size:
        return Axis(0, 1, bottom, TOP)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 50:
        return Axis(low, high, bottom, TOP, log=10)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - room, high + room, bottom, TOP)


def _draw(picture: Figure, each: Series, line: Merged, x: Axis, y: Axis, clip: str) -> None:
    def pixels(xs: np.ndarray, ys: np.ndarray) -> list[Point]:
        return [
            (x(float(a)), y(float(b)) if math.isfinite(b) else math.nan)
            for a, b in zip(xs, ys, strict=True)
        ]

    if len(each.group.runs) > FEW:
        upper, lower = pixels(line.x, line.high), pixels(line.x, line.low)
        picture.band(upper, lower, f"band {each.colour}", clip)
        picture.path(pixels(line.x, line.median), f"curve {each.line}", clip=clip)
    else:
        kind = "curve" if len(each.group.runs) == 1 else "thin"
        for xs, ys in line.lines:
            picture.path(pixels(xs, ys), f"{kind} {each.line}", clip=clip)
    for at, value in line.ends:
        height = min(max(y(value), TOP), y.start)
        hint = f"{each.group.label}: not finite after {number(at)}"
        picture.cross((x(at), height), 4, "cross", hint)


def _curve_numbers(
    key: str,
    caption: str,
    label: str,
    found: Sequence[tuple[Series, Merged]],
    text: Callable[[float], str],
) -> Table:
    columns = [Column("x", label)]
    columns += [Column(each.group.key, each.group.label) for each, _ in found]
    longest = max((line.x for _, line in found), key=len)
    count = min(ROWS_OF_NUMBERS, len(longest))
    chosen = longest[np.unique(np.linspace(0, len(longest) - 1, count).round().astype(int))]
    rows = []
    for at in chosen:
        cells = [Cell(number(round(float(at), 3)), float(at))]
        for _, line in found:
            value = float(np.interp(at, line.x, line.median, left=np.nan, right=np.nan))
            cells.append(Cell(text(value), value) if math.isfinite(value) else Cell("-"))
        rows.append(cells)
    return Table(key, caption, columns, rows)


def scales(drawn: Sequence[Series]) -> list[str]:
    """The loss scale of each group that has one that moves, or that skipped steps."""
    return [picture for each in drawn if (picture := scale(each))]


def scale(each: Series, *, named: bool = True) -> str:
    """One group's loss scale by step, on powers of two; skipped steps are marked below."""
    scaled = [run for run in each.group.runs if _history(run) and run.report.loss_scale.mode]
    shown = [r for r in scaled if r.report.loss_scale.mode != "none" or r.skips][:5]
    if not shown:
        return ""
    caption = f"Loss scale, {each.group.label}" if named else "Loss scale"
    if len(shown) < len(scaled):
        caption += f": {len(shown)} of {len(scaled)} runs"
    skipped = sum(r.report.loss_scale.skipped_steps or 0 for r in shown)
    caption += f"; skipped steps marked below ({skipped})" if skipped else "; no step was skipped"
    paths = [(run, _history(run)) for run in shown]
    values = [v for _, path in paths for _, v in path]
    last = max((r.report.training.steps or path[-1][0]) for r, path in paths)
    key = f"scale-{each.group.key}"
    said = f"From {number(min(values))} to {number(max(values))} over {number(last)} steps."
    picture = Figure(key, caption, said, WIDTH, 210)
    bottom = 210 - BOTTOM - 14
    x = Axis(0, max(last, 1), LEFT, WIDTH - RIGHT)
    y = Axis(min(values) / 2, max(values) * 2, bottom, TOP, log=2)
    picture.frame(x, y, x_text=number, y_text=_power, x_label="", x_count=5)
    picture.text(((x.start + x.end) / 2, bottom + 48), "step", "label", "middle")
    for run, path in paths:
        end = float(run.report.training.steps or last)
        picture.path(
            _stairs(path, end, x, y), f"{'curve' if len(paths) == 1 else 'thin'} {each.line}"
        )
        for step in run.skips[:: max(1, len(run.skips) // 300)]:
            picture.line((x(step), bottom + 24), (x(step), bottom + 33), "skip")
    return html.figure(str(picture), caption, html.table(_scale_numbers(key, caption, paths)))


def _history(run: Run) -> list[tuple[float, float]]:
    """(step, scale) at each change: the report's, or what was logged."""
    pairs = [pair for pair in run.report.loss_scale.history if len(pair) == 2]
    history = [(step, value) for step, value in pairs if math.isfinite(step)]
    if not history and (curve := run.curves.get("loss_scale/scale")) is not None:
        history = [(float(s), float(v)) for s, v in zip(curve.steps, curve.values, strict=True)]
    initial = run.report.loss_scale.initial
    if initial is not None and (not history or history[0][0] > 0):
        history.insert(0, (0.0, float(initial)))
    return [(s, v) for s, v in history if 1 / LARGEST < v < LARGEST]


def _stairs(path: Sequence[tuple[float, float]], end: float, x: Axis, y: Axis) -> list[Point]:
    thin = max(1, len(path) // 300)
    kept = [*path[::thin], path[-1]]
    points: list[Point] = []
    for (step, value), (following, _) in zip(kept, [*kept[1:], (end, 0.0)], strict=True):
        points += [(x(step), y(value)), (x(max(step, following)), y(value))]
    return points


def _scale_numbers(
    key: str, caption: str, paths: Sequence[tuple[Run, list[tuple[float, float]]]]
) -> Table:
    columns = [Column("seed", "seed"), Column("scale", "first to last scale")]
    columns += [Column("range", "lowest to highest"), Column("skips", "skipped steps, as logged")]
    rows = []
    for run, path in paths:
        values = [value for _, value in path]
        more = "" if len(run.skips) <= 20 else f", and {len(run.skips) - 20} more"
        skips = ", ".join(map(str, run.skips[:20])) + more
        rows.append(
            [
                Cell(str(run.seed), run.seed),
                Cell(f"{_power(values[0])} to {_power(values[-1])}", values[-1]),
                Cell(f"{_power(min(values))} to {_power(max(values))}"),
                Cell(skips or "none"),
            ]
        )
    return Table(key, caption, columns, rows)


def _power(value: float) -> str:
    exponent = math.log2(value)
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return (
        f"2{f'{exponent:.0f}'.translate(superscript)}" if exponent.is_integer() else number(value)
    )
