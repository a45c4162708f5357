"""A comparison on the console: tables first, the verdict last, where one looks."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table as RichTable
from rich.text import Text

from mpt.comparison.result import Comparison
from mpt.console import rich_console
from mpt.pages import tables
from mpt.pages.cells import BAD, GOOD, QUIET, RANGE, Cell, Column, Table
from mpt.printable import one_line, printable

STYLES = {GOOD: "green", BAD: "red", QUIET: "dim", "": ""}
GAP = 2


def print_comparison(comparison: Comparison) -> None:
    """Print the comparison on stdout: tables, remarks, the verdict, the requirements.

    On a terminal a table that is too wide is turned on its side; elsewhere lines are not wrapped.
    """
    console = rich_console(sys.stdout)
    for table in (tables.groups(comparison), tables.pairings(comparison)):
        print_table(console, table)
    _print_remarks(console, comparison)
    for table in (
        tables.failures(comparison),
        tables.unreadable(comparison),
        tables.published(comparison),
    ):
        print_table(console, table)
    for note in comparison.notes:
        print_line(console, f"note: {one_line(note)}")
    if comparison.notes:
        print_line(console, "")
    for verdict in comparison.verdicts:
        scope = f"{verdict.scope}: " if verdict.scope else ""
        print_line(console, one_line(f"{scope}{verdict.sentence}"), "bold")
        for reason in verdict.reasons:
            print_line(console, f"  - {one_line(reason)}")
    for each in comparison.requirements:
        met = "met" if each.met else "NOT MET"
        text = one_line(f"{met}: {each.text}: {each.detail}")
        print_line(console, text, "green" if each.met else "bold red")


def _print_remarks(console: RichConsole, comparison: Comparison) -> None:
    """What is said in words, by pairing; "speed" and "parity" head their own sentences."""
    for pairing in comparison.pairings:
        remarks = tables.remarks(comparison, pairing)
        if not remarks:
            continue
        title = f"{pairing.group.label} against {pairing.baseline.label}"
        print_line(console, one_line(title), "bold")
        for kind, text in remarks:
            print_line(console, f"  {kind}: {one_line(text)}")
        print_line(console, "")


def print_table(console: RichConsole, table: Table) -> None:
    """Print a table with its title; nothing where it has no rows."""
    if not table.rows:
        return
    print_line(console, table.title, "bold")
    if not console.is_terminal:
        for line in columns(table):
            print_line(console, line)
    else:
        fitting = fit(table, console.width)
        if fitting is None:
            _print_records(console, table)
        else:
            console.print(_rich(fitting, console.encoding))
    for note in table.notes:
        print_line(console, one_line(note), "dim")
    print_line(console, "")


def columns(table: Table) -> list[str]:
    """The table as lines of columns, as wide as they come."""
    texts = [[one_line(text) for text in row] for row in table.texts]
    widths = [max(cell_len(row[i]) for row in texts) for i in range(len(table.columns))]
    lines = []
    for row in texts:
        cells = []
        for text, width, column in zip(row, widths, table.columns, strict=True):
            room = " " * (width - cell_len(text))
            cells.append(room + text if column.numeric else text + room)
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def fit(table: Table, width: int) -> Table | None:
    """The table as it is, with ranges below their medians, or on its side: what first fits."""
    below = stacked(table)
    return next((each for each in (table, below, turned(below)) if _width(each) <= width), None)


def _width(table: Table) -> int:
    longest = [
        max(cell_len(line) for text in column for line in text.split("\n"))
        for column in zip(*table.texts, strict=True)
    ]
    return sum(longest) + GAP * (len(longest) - 1)


def stacked(table: Table) -> Table:
    """The table with every range on a line of its own."""

    def cell(column: Column, each: Cell) -> Cell:
        found = RANGE.fullmatch(each.text) if column.numeric else None
        return each if found is None else replace(each, text=f"{found[1]}\n{found[2]}")

    rows = [[cell(*each) for each in zip(table.columns, row, strict=True)] for row in table.rows]
    return replace(table, rows=rows)


def turned(table: Table) -> Table:
    """Rows as columns."""
    first, *others = table.columns
    heads = [Column("what", first.head, numeric=False)]
    heads += [Column(row[0].text, row[0].text) for row in table.rows]
    rows = [
        [Cell(column.head), *(row[index] for row in table.rows)]
        for index, column in enumerate(others, start=1)
    ]
    return Table(table.key, table.title, heads, rows, table.notes)


def _rich(table: Table, encoding: str) -> RichTable:
    drawn = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    for column in table.columns:
        drawn.add_column(
            Text(printable(column.head, encoding)), justify="right" if column.numeric else "left"
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(c.text, encoding), STYLES[c.tone]) for c in row))
    return drawn


def _print_records(console: RichConsole, table: Table) -> None:
    """Each row as a block of lines, for a terminal too narrow for columns."""
    width = max(cell_len(column.head) for column in table.columns[1:]) + GAP
    for row in table.rows:
        print_line(console, f"  {one_line(row[0].text)}", "bold")
        for column, cell in zip(table.columns[1:], row[1:], strict=True):
            head = column.head + " " * (width - cell_len(column.head))
            print_line(console, f"    {head}{one_line(cell.text)}", STYLES[cell.tone])


def print_line(console: RichConsole, text: str, style: str = "") -> None:
    """Print one line. On a terminal a sentence is wrapped between words, and hangs."""
    text = printable(text, console.encoding)
    if console.is_terminal:
        text = "\n".join(_hanging(line, console.width) for line in text.split("\n"))
    console.print(Text(text, style), soft_wrap=True)


def _hanging(line: str, width: int) -> str:
    """`line` broken between words; a word such as a path stays whole."""
    if cell_len(line) <= width:
        return line
    indent = len(line) - len(line.lstrip(" -"))
    lines = [line[:indent]]
    for word in re.findall(" *[^ ]+", line[indent:]):
        if len(lines[-1]) == indent or cell_len(lines[-1] + word) <= width:
            lines[-1] += word
        else:
            lines.append(" " * (indent or GAP) + word.lstrip())
    return "\n".join(lines)
