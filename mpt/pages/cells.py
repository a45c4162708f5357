"""What tables are made of: a cell's text with the full number behind it.

So a page can be read by a program too, and the console, Markdown and HTML say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpt.comparison.result import Interval, Spread
from mpt.report.numbers import power_of_two

NONE = "-"
GOOD, BAD, QUIET = "good", "bad", "quiet"
# A median or an estimate, and the range that may go on a line of its own.
RANGE = re.compile(r"(.+?) (\(.+ to .+\).*)")


@dataclass(frozen=True)
class Cell:
    """Text, the number behind it, and how it is meant: good, bad, quiet or "" (neither)."""

    text: str
    value: Any = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its key, for programs, its head, and whether it holds numbers."""

    key: str
    head: str
    numeric: bool = True


@dataclass
class Table:
    """Rows of cells under `columns`; `notes` are said below."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[list[str]]:
        """Heads and cells as text, row by row."""
        heads = [column.head for column in self.columns]
        return [heads, *([cell.text for cell in row] for row in self.rows)]


def spread(found: Spread | None, text: Callable[[float], str]) -> Cell:
    """The median, and from where to where the runs lie, where they differ."""
    if found is None:
        return Cell(NONE)
    middle, low, high = text(found.median), text(found.low), text(found.high)
    same = found.count < 2 or low == high == middle
    shown = middle if same else _between(middle, low, high)
    return Cell(shown, found.median)


def interval(found: Interval | None, text: Callable[[float], str]) -> Cell:
    """The estimate and its confidence interval."""
    if found is None:
        return Cell(NONE)
    if found.low is None or found.high is None:
        return Cell(text(found.estimate), found.estimate)
    shown = _between(text(found.estimate), text(found.low), text(found.high))
    return Cell(shown, found.estimate)


def _between(middle: str, low: str, high: str) -> str:
    """ "4.5 GiB (4.4 to 4.6)": the unit is said once where all three have it."""
    units = {re.sub(r"^[-+0-9.e^]+", "", text) for text in (middle, low, high)}
    unit = units.pop()
    if unit and not units and unit not in ("nan", "inf"):
        low, high = low.removesuffix(unit), high.removesuffix(unit)
    return f"{middle} ({low} to {high})"


def times(value: float) -> str:
    """A ratio: "1.80x"."""
    return f"{value:.2f}x" if abs(value) < 100 else f"{value:.0f}x"


def signed(value: float) -> str:
    """A difference, with its sign; two significant digits."""
    return "0" if value == 0 else f"{value:+.2g}"


def short_tag(tag: str | None) -> str:
    """ "accuracy" for validation/accuracy."""
    return "metric" if tag is None else tag.removeprefix("validation/")


def scale(value: float) -> str:
    """A loss scale: "2^15"; 1, which is none, as it is."""
    return "1" if value == 1 else power_of_two(value)


def plain(value: Any) -> str:
    """A value of a configuration as a user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)


def measured(value: float | None, text: Callable[[float], str]) -> Cell:
    """A value; a dash where there is none."""
    return Cell(NONE) if value is None else Cell(text(value), value)


def ratio(value: float | None) -> Cell:
    """A ratio to the baseline."""
    return Cell(NONE) if value is None else Cell(times(value), value)


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"
