"""The plots of a comparison: each a figure with its numbers in a table below it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mpt.comparison.result import Comparison, Group, Interval, Spread
from mpt.pages import html
from mpt.pages.cells import Cell, Column, Table, interval, short_tag, signed, times
from mpt.pages.series import Series
from mpt.pages.svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Axis, Figure, Point
from mpt.report.numbers import number, rate, size

ROW = 46.0


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
    placed: list[tuple[float, float, float]] = []
    for each in found:
        for (speed, value), hint in _runs(each.group, comparison.metric):
            picture.circle((x(speed), y(value)), 3, f"run {each.colour}", hint)
        placed.append(_cross(picture, each, x, y))
    for each, (left, height, _) in zip(found, list(placed), strict=True):
        _name(picture, each.group.label, (left, height), x, placed)
    return html.figure(str(picture), title)


def _cross(picture: Figure, each: Series, x: Axis, y: Axis) -> tuple[float, float, float]:
    """A group's medians and ranges; where its point lies: left, height, right."""
    speed, final = each.group.throughput, each.group.final
    assert speed is not None
    assert final is not None
    at = (x(speed.median), y(final.median))
    picture.line((x(speed.low), at[1]), (x(speed.high), at[1]), f"effect {each.colour}")
    picture.line((at[0], y(final.low)), (at[0], y(final.high)), f"effect {each.colour}")
    picture.circle(at, 5, f"dot {each.colour}", each.group.label)
    return at[0], at[1], at[0]


def _name(
    picture: Figure,
    label: str,
    at: Point,
    x: Axis,
    placed: list[tuple[float, float, float]],
) -> None:
    """A label beside its point, above or below, where nothing was `placed` yet."""
    text = shortened(label, (x.end - x.start) * 0.6)
    width = 8.0 * len(text)
    right = at[0] < (x.start + x.end) / 2
    left = at[0] + 9 if right else at[0] - 9 - width
    for offset in (-9, 18, -24, 33, -39, 48, -54, 63):
        height = at[1] + offset
        free = all(
            abs(height - 4 - other) >= 13 or start > left + width or end < left
            for start, other, end in placed
        )
        if free and height > 10:
            break
    placed.append((left, height - 4, left + width))
    picture.text(
        (left if right else left + width, height), text, "strong", "start" if right else "end"
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


def memory_bars(drawn: Sequence[Series]) -> list[str]:
    """The peaks of the device's memory and of the host's."""
    return [
        bars(drawn, "device_memory", "Device memory, peak", "", size),
        bars(drawn, "host_memory", "Host memory, peak", "", size),
    ]
