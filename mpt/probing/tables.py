"""A probe's findings as tables: drawn on a terminal, plain columns elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from mpt.console import rich_console
from mpt.printable import printable
from mpt.probing.document import Findings
from mpt.probing.measures import AtScale, Layer
from mpt.probing.recommendation import HEADROOM_BITS, LOST_SHARE, ScaleRow
from mpt.report.numbers import power_of_two
from mpt.schema import HALF

NOT_MEASURED = "-"


@dataclass(frozen=True)
class Cell:
    """Text, and whether it deserves a look."""

    text: str
    bad: bool = False


def show(findings: Findings) -> None:
    """Print the layers, the loss scales, notes and the recommendation on stdout."""
    console = rich_console(sys.stdout)
    half = findings.dtype
    _line(
        console,
        f"{findings.model} under {findings.policy} beside {findings.reference}: "
        f"{findings.batches} batch{'es' if findings.batches > 1 else ''} of "
        f"{findings.batch_size}, loss scale {power_of_two(findings.scale)}",
    )
    _line(console, "")
    _table(console, LAYER_HEADS, [_layer_cells(each, findings.scale) for each in findings.layers])
    _line(console, "")
    if any(row.finite for row in findings.scales):
        _line(console, f"Gradients in half precision ({half}), by loss scale")
        _line(console, "")
        _table(console, SCALE_HEADS, [_scale_cells(row, findings) for row in findings.scales])
    else:
        first, last = (power_of_two(findings.scales[i].scale) for i in (0, -1))
        _line(console, f"The gradients are finite under no loss scale from {first} to {last}.")
    _line(console, "")
    for note in findings.notes:
        _line(console, f"note: {note}")
    for each in findings.ranking[:1]:
        if each.score >= 1:
            _line(console, f"harmed most: {each.path}: {each.reason}")
    _line(console, findings.recommendation.message)


LAYER_HEADS = (
    *("layer", "dtype", "forward error", "gradient error", "lost to 0", "subnormal"),
    *("largest scaled", "headroom"),
)
SCALE_HEADS = ("loss scale", "lost to 0", "subnormal", "largest scaled", "headroom", "")


def _layer_cells(layer: Layer, scale: float) -> list[Cell]:
    at = layer.scales.get(scale, AtScale())
    losses = at.losses
    return [
        Cell(layer.path),
        Cell(layer.compute_dtype),
        _error(layer.outputs.relative),
        _error(at.relative_error),
        _share(losses.underflow_share, bad=layer.compute_dtype in HALF),
        _share(losses.subnormal_share),
        _largest(losses.largest, finite=losses.finite, any_=losses.elements > 0),
        _bits(losses.headroom_bits, finite=losses.finite, any_=losses.elements > 0),
    ]


def _scale_cells(row: ScaleRow, findings: Findings) -> list[Cell]:
    marks = []
    if row.scale == findings.scale:
        marks.append("this run's first")
    if row.scale == findings.recommendation.initial_scale:
        marks.append("enough" if row.scale == 1 else "recommended")
    measured = row.subnormal_share is not None
    return [
        Cell(power_of_two(row.scale)),
        _share(row.underflow_share),
        _share(row.subnormal_share),
        _largest(row.largest, finite=row.finite, any_=measured),
        _bits(row.headroom_bits, finite=row.finite, any_=measured),
        Cell(", ".join(marks)),
    ]


def _error(value: float | None) -> Cell:
    if value is None:
        return Cell(NOT_MEASURED)
    if not math.isfinite(value):
        return Cell("not finite", bad=True)
    return Cell("0" if value == 0 else f"{value:.1e}", bad=value > 0.1)


def _share(value: float | None, *, bad: bool = False) -> Cell:
    if value is None:
        return Cell(NOT_MEASURED)
    if value == 0:
        return Cell("0")
    text = "<0.01%" if value < 1e-4 else f"{100 * value:.2g}%" if value < 0.995 else "100%"
    return Cell(text, bad=bad and value > LOST_SHARE)


def _largest(value: float, *, finite: bool, any_: bool) -> Cell:
    if not any_:
        return Cell(NOT_MEASURED)
    return Cell(f"{value:.3g}") if finite else Cell("not finite", bad=True)


def _bits(value: float, *, finite: bool, any_: bool) -> Cell:
    if not any_ or (finite and value == math.inf):
        return Cell(NOT_MEASURED)
    return (
        Cell(f"{value:.1f} bits", bad=value < HEADROOM_BITS) if finite else Cell("none", bad=True)
    )


def _table(console: RichConsole, heads: Sequence[str], rows: list[list[Cell]]) -> None:
    if not console.is_terminal:
        texts = [list(heads), *([cell.text for cell in row] for row in rows)]
        widths = [max(len(each[i]) for each in texts) for i in range(len(heads))]
        for line in texts:
            cells = [
                text.ljust(width) if i == 0 or heads[i] == "" else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            _line(console, "  ".join(cells).rstrip())
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(heads):
        right = 0 < index < len(heads) - (heads[-1] == "")
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(
                Text(printable(cell.text, console.encoding), style="red" if cell.bad else "")
                for cell in row
            )
        )
    console.print(table)


def _line(console: RichConsole, text: str) -> None:
    console.print(Text(printable(text, console.encoding)), soft_wrap=not console.is_terminal)


@contextmanager
def progress(verbosity: int) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: one live line on a terminal, else only with -v."""
    console = rich_console(sys.stderr)
    if verbosity >= 0 and console.is_terminal:
        with console.status("probing") as status:
            yield status.update
    else:

        def tell(text: str) -> None:
            if verbosity > 0:
                _line(console, text)

        yield tell
