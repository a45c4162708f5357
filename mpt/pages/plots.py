"""The plots of a comparison: each a figure with its numbers in a table below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mpt.comparison.result import Comparison, Group, Interval, Run, Spread
from mpt.pages import html
from mpt.pages.series import FEW, Merged, Series, merge
from mpt.pages.svg import Axis, Figure, Point
from mpt.pages.tables import Cell, Column, Table, interval, short_tag, signed, times
from mpt.report.numbers import number, rate, size

WIDTH = 460.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 10.0, 44.0
ROW = 46.0
ROWS_OF_NUMBERS = 12
"""Points of a curve that its table shows."""


def swatches(drawn: Sequence[Series]) -> dict[str, str]:
    """Label -> colour class, for the tables."""
    return {each.group.label: each.colour for each in drawn}


def legend(drawn: Sequence[Series]) -> str:
    """Which line is which group."""
    marks = [
        f'<li><svg viewBox="0 0 28 12" aria-hidden="true"><line class="curve {each.line}" '
        f'x1="0" y1="6" x2="28" y2="6"/></svg>{html.escape(each.group.label)}</li>'
        for each in drawn
    ]
    return f'<ul class="legend">{"".join(marks)}</ul>'


def bars(
    drawn: Sequence[Series], key: str, title: str, unit: str, text: Callable[[float], str]
) -> str:
    """A quantity of each group: median, range and the runs themselves; "" where none has it.

    Args:
        key: a field of `Group` that holds a `Spread`.
        unit: of the numbers, said in the caption.
    """
    spreads = [(each, getattr(each.group, key)) for each in drawn]
    found: list[tuple[Series, Spread]] = [(s, spread) for s, spread in spreads if spread]
    if not found:
        return ""
    medians = "; ".join(f"{each.group.label} {text(spread.median)}" for each, spread in found)
    height = ROW * len(found) + 8
    picture = Figure(f"plot-{key}", title, f"Medians: {medians} {unit}".strip(), WIDTH, height)
    largest = max(spread.high for _, spread in found) or 1.0
    x = Axis(0, largest, 0, WIDTH - 8)
    for index, (each, spread) in enumerate(found):
        top = index * ROW
        said = text(spread.median)
        label = shortened(each.group.label, WIDTH - 8.5 * len(said))
        picture.text((0, top + 14), label, "strong")
        picture.text((WIDTH - 2, top + 14), said, anchor="end")
        picture.rectangle(0, top + 21, x(spread.median), 14, f"bar {each.colour}")
        picture.line((x(spread.low), top + 28), (x(spread.high), top + 28), "whisker")
        if spread.count > 1:
            for end in (spread.low, spread.high):
                picture.line((x(end), top + 24), (x(end), top + 32), "whisker")
    numbers = Table(
        key,
        title,
        [
            Column("group", "group", numeric=False),
            Column("median", f"median, {unit}" if unit else "median"),
            Column("low", "lowest"),
            Column("high", "highest"),
            Column("runs", "runs"),
        ],
        [
            [
                Cell(each.group.label),
                *(Cell(text(v), v) for v in (spread.median, spread.low, spread.high)),
                Cell(str(spread.count), spread.count),
            ]
            for each, spread in found
        ],
    )
    caption = f"{title}: median over runs{f', {unit}' if unit else ''}; the line spans all runs"
    return html.figure(str(picture), caption, html.table(numbers, swatches=swatches(drawn)))


def shortened(label: str, room: float) -> str:
    """A label without its middle where it is wider than `room`, in units of the picture.

    Its end, which tells policies apart, is what most is kept of.
    """
    most = max(8, int(room / 9))
    start = most // 4
    return label if len(label) <= most else f"{label[:start]}…{label[start + 1 - most :]}"


def effects(comparison: Comparison, drawn: Sequence[Series]) -> list[str]:
    """The speed-ups and the metric's differences with their intervals, beside "no change"."""
    colours = {id(each.group): each.colour for each in drawn}
    speed, metric = [], []
    margin = 0.0
    for pairing in comparison.pairings:
        label = pairing.group.label
        colour = colours.get(id(pairing.group), "other")
        if pairing.speedup is not None:
            speed.append((label, colour, pairing.speedup))
        if pairing.parity is not None:
            margin = max(margin, pairing.parity.margin)
            metric.append((label, colour, pairing.parity.difference))
    found = []
    if speed:
        level = f"{100 * speed[0][2].level:.0f}%"
        title = f"Speed-up against the baseline, with its {level} interval; 1 is no change"
        found.append(html.figure(_forest("effect-speed", title, speed, 1.0, 0.0, times), title))
    if metric:
        level = f"{100 * metric[0][2].level:.0f}%"
        title = (
            f"Difference in {short_tag(comparison.metric)}, with its {level} interval; "
            f"the shade is the margin that counts as none, {number(margin)} each way"
        )
        found.append(
            html.figure(_forest("effect-metric", title, metric, 0.0, margin, signed), title)
        )
    return found


def _forest(
    key: str,
    title: str,
    rows: Sequence[tuple[str, str, Interval]],
    neutral: float,
    margin: float,
    text: Callable[[float], str],
) -> str:
    ends = [neutral - margin, neutral + margin]
    for _, _, each in rows:
        ends += [v for v in (each.estimate, each.low, each.high) if v is not None]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.1 * (abs(neutral) or 1.0)
    height = ROW * len(rows) + BOTTOM - 8
    estimates = "; ".join(f"{label} {interval(each, text).text}" for label, _, each in rows)
    picture = Figure(key, title, estimates, WIDTH, height)
    x = Axis(low - room, high + room, 10, WIDTH - 10)
    bottom = ROW * len(rows) + 4
    if margin:
        left, right = x(neutral - margin), x(neutral + margin)
        picture.rectangle(left, 0, right - left, bottom, "margin")
    picture.line((x(neutral), 0), (x(neutral), bottom), "reference")
    for index, (label, colour, each) in enumerate(rows):
        y = index * ROW + 30
        said = interval(each, text).text
        picture.text((0, y - 14), shortened(label, WIDTH - 8.5 * len(said)), "strong")
        picture.text((WIDTH, y - 14), said, anchor="end")
        if each.low is not None and each.high is not None:
            picture.line((x(each.low), y), (x(each.high), y), f"effect {colour}")
        picture.circle((x(each.estimate), y), 4.5, f"dot {colour}")
    picture.line((x.start, bottom), (x.end, bottom), "axis")
    for value in x.ticks(5):
        picture.line((x(value), bottom), (x(value), bottom + 4), "axis")
        picture.text((x(value), bottom + 18), text(value), "tick", "middle")
    return str(picture)


def plane(comparison: Comparison, drawn: Sequence[Series]) -> str:
    """The metric against the speed: every run a point, every group its medians and ranges."""
    found = [each for each in drawn if each.group.throughput and each.group.final]
    if not found:
        return ""
    points = [point for each in found for point, _ in _runs(each.group, comparison.metric)]
    if not points:
        return ""
    name = short_tag(comparison.metric)
    title = f"{name[:1].upper()}{name[1:]} against speed: best is "
    title += "bottom right" if comparison.higher_is_better is False else "top right"
    said = "; ".join(
        f"{each.group.label} {rate(each.group.throughput.median)} examples/s, "  # type: ignore[union-attr]
        f"{name} {number(each.group.final.median)}"  # type: ignore[union-attr]
        for each in found
    )
    picture = Figure("plot-plane", title, said, WIDTH, 300)
    x = Axis(*_padded([p[0] for p in points]), LEFT, WIDTH - RIGHT)
    y = Axis(*_padded([p[1] for p in points]), 300 - BOTTOM, TOP)
    picture.frame(x, y, x_text=number, y_text=number, x_label="examples/s", x_count=4)
    for each in found:
        for (speed, value), hint in _runs(each.group, comparison.metric):
            picture.circle((x(speed), y(value)), 3, f"run {each.colour}", hint)
    placed: list[float] = []
    for each in found:
        _place(picture, each, x, y, placed)
    return html.figure(str(picture), title)


def _place(picture: Figure, each: Series, x: Axis, y: Axis, placed: list[float]) -> None:
    """A group's cross of ranges and its label, where none was placed yet."""
    speed, final = each.group.throughput, each.group.final
    assert speed is not None
    assert final is not None
    at = (x(speed.median), y(final.median))
    picture.line((x(speed.low), at[1]), (x(speed.high), at[1]), f"effect {each.colour}")
    picture.line((at[0], y(final.low)), (at[0], y(final.high)), f"effect {each.colour}")
    picture.circle(at, 5, f"dot {each.colour}", each.group.label)
    right = at[0] < (x.start + x.end) / 2
    height = at[1] - 9
    while any(abs(height - other) < 15 for other in placed):
        height += 15 if at[1] < (y.start + y.end) / 2 else -15
    placed.append(height)
    picture.text(
        (at[0] + (9 if right else -9), height),
        each.group.label,
        "strong",
        "start" if right else "end",
    )


def _runs(group: Group, metric: str | None) -> list[tuple[Point, str]]:
    found = []
    for run in group.runs:
        speed = run.report.throughput.examples_per_second
        value = run.report.metrics.final.get(metric) if metric else None
        if run.succeeded and speed is not None and value is not None and math.isfinite(value):
            hint = f"{group.label}, seed {run.seed}: {rate(speed)} examples/s, {number(value)}"
            found.append(((speed, value), hint))
    return found


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


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
    values = values[np.isfinite(values)]
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
    history = [(float(s), float(v)) for s, v in run.report.loss_scale.history]
    if not history and (curve := run.curves.get("loss_scale/scale")) is not None:
        history = [(float(s), float(v)) for s, v in zip(curve.steps, curve.values, strict=True)]
    initial = run.report.loss_scale.initial
    if initial is not None and (not history or history[0][0] > 0):
        history.insert(0, (0.0, float(initial)))
    return [(s, v) for s, v in history if v > 0 and math.isfinite(v)]


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


def memory_bars(drawn: Sequence[Series]) -> list[str]:
    """The peaks of the device's memory and of the host's."""
    return [
        bars(drawn, "device_memory", "Device memory, peak", "", size),
        bars(drawn, "host_memory", "Host memory, peak", "", size),
    ]
