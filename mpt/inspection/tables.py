"""An inspection on the console: a table on a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mpt.inspection.inspection import Inspection
from mpt.inspection.memory import Estimate
from mpt.inspection.table import Row
from mpt.printable import printable
from mpt.report.numbers import count
from mpt.report.render import labelled
from mpt.schema import FLOAT8

NOT_MEASURED = "not measured"
NOT_CALLED = "not called"
TO_DO = "to do: "
_SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "uint8": "u8",
    "int32": "i32",
    "int64": "i64",
    "string": "str",
}
_HEADERS = (
    *("path", "class", "variable", "compute", "output", "shape", "parameters"),
    *("forward_flops", "activation_bytes", "source"),
)
_NUMBERS = ("parameters", "forward_flops", "activation_bytes")
_MEMORY = (
    ("activations", "activations"),
    ("weights", "weights"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("16-bit copies of weights", "weight_copies"),
    ("state", "state"),
    ("total", "total"),
)


def show(inspection: Inspection, console: Console, *, quiet: bool = False) -> None:
    """Print layers, totals, what is opaque, findings; with `quiet` the findings only."""
    if not quiet:
        _show_numbers(inspection, console)
        _print_entries(console, "notes", [[note] for note in inspection.notes])
        opaque = [
            [f"{part.path}: {part.what}", f"{NOT_MEASURED}: {', '.join(part.missing)}"]
            for part in inspection.opaque
        ]
        _print_entries(console, "not looked into", opaque)
    found = [
        [f"{each.kind}  {each.path or ''}".rstrip(), each.message, f"{TO_DO}{each.remedy}"]
        for each in inspection.findings
    ]
    _print_entries(console, "findings", found, always=True)


def _show_numbers(inspection: Inspection, console: Console) -> None:
    if console.is_terminal:
        console.print(_layer_table(inspection.layers))
        _print(console, _legend(inspection.layers), "dim")
        for table in (labelled(totals(inspection)), _memory_table(inspection.estimates)):
            console.print()
            console.print(table)
        console.print()
        return
    cells = [list(_HEADERS), *(_plain(row) for row in inspection.layers)]
    _print_columns(console, cells, right=[name in _NUMBERS for name in _HEADERS])
    _print(console)
    _print_columns(console, [list(pair) for pair in totals(inspection)])
    _print(console)
    memory = _memory_cells(inspection.estimates)
    _print_columns(console, memory, right=[False, *(True for _ in inspection.estimates)])
    _print(console)


def totals(inspection: Inspection) -> list[tuple[str, str]]:
    """What the whole model amounts to, as (label, text)."""
    parameters = f"{inspection.parameters:,}"
    if inspection.trainable != inspection.parameters:
        parameters += f", {inspection.trainable:,} of them trainable"
    return [
        ("model", inspection.name),
        ("precision", f"{inspection.policy} ({inspection.reason})"),
        ("batch", str(inspection.batch_size)),
        ("parameters", parameters),
        ("forward", _flops(inspection)),
        *([("float8", _float8(inspection))] if any(map(_is_float8, inspection.layers)) else []),
    ]


def _is_float8(row: Row) -> bool:
    return row.quantization == FLOAT8


def _float8(inspection: Inspection) -> str:
    """How much of the model has its products in float8."""
    rows = list(filter(_is_float8, inspection.layers))
    kinds = Counter(row.class_name for row in rows)
    text = f"products of {', '.join(f'{number} {kind}' for kind, number in kinds.items())} layers"
    own, total = [row.forward_flops for row in rows], inspection.flops.total
    if total and None not in own:
        text += f", {_percent(sum(map(float, filter(None, own))) / total)} of the FLOPs"
    return text


def _flops(inspection: Inspection) -> str:
    flops = inspection.flops
    if flops.total is None or flops.half is None:
        return f"{NOT_MEASURED}: {flops.reason}"
    text = f"{count(flops.total, 'FLOP')} an example"
    if flops.total:
        text += f", {_percent(flops.half / flops.total)} of it in 16 bits"
    return text


def _percent(share: float | None) -> str:
    if share is None:
        return NOT_MEASURED
    text = f"{100 * share:.1f}"
    if text == "100.0" and share < 1:
        return "over 99.9%"
    return f"{text.removesuffix('.0')}%"


def _plain(row: Row) -> list[str]:
    """The cells of one layer, in full."""
    absent = _absent(row)
    return [
        row.path,
        row.class_name,
        row.variable_dtype or "-",
        row.compute_dtype or "-",
        row.output_dtype or absent,
        _shape(row) or absent,
        NOT_MEASURED if row.parameters is None else str(row.parameters),
        NOT_MEASURED if row.forward_flops is None else f"{row.forward_flops:.0f}",
        absent if row.activation_bytes is None else str(row.activation_bytes),
        _source(row),
    ]


def _absent(row: Row) -> str:
    return NOT_CALLED if row.calls == 0 else NOT_MEASURED


def _source(row: Row) -> str:
    marks = [row.source or "-"]
    if row.fused and row.source != "fused":
        marks.append("fused")
    if row.quantization is not None:
        marks.append(row.quantization)
    return ", ".join(marks)


def _shape(row: Row) -> str:
    shapes = [
        "x".join("?" if each is None else str(each) for each in shape) or "scalar"
        for shape in row.output_shape or ()
    ]
    return " + ".join(dict.fromkeys(shapes))


def _layer_table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("layer", "class"):
        table.add_column(header, overflow="fold")
    for header in ("var", "comp", "out"):
        table.add_column(header, no_wrap=True)
    table.add_column("shape", overflow="fold")
    for header in ("params", "FLOPs", "activ."):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold")
    for row in rows:
        half = row.compute_dtype in ("float16", "bfloat16")
        cells = [
            "  " * max(row.depth - 1, 0) + row.name,
            row.class_name,
            _short(row.variable_dtype),
            _short(row.compute_dtype),
            _short(row.output_dtype, row),
            _shape(row) or _brief(row),
            "?" if row.parameters is None else _number(row.parameters),
            "?" if row.forward_flops is None else _number(row.forward_flops),
            _brief(row) if row.activation_bytes is None else _size(row.activation_bytes),
            _source(row),
        ]
        table.add_row(*(Text(cell) for cell in cells), style="" if half else "dim")
    return table


def _legend(rows: Sequence[Row]) -> str:
    said = ["var, comp, out: dtypes of variables, computing, output", "FLOPs: an example, forward"]
    if any(_unknown(row) for row in rows):
        said.append(f"?: {NOT_MEASURED}")
    if any(row.calls == 0 for row in rows):
        said.append("-: not called")
    return "; ".join(said)


def _unknown(row: Row) -> bool:
    return None in (row.parameters, row.forward_flops) or (
        row.activation_bytes is None and row.calls != 0
    )


def _brief(row: Row) -> str:
    return "-" if row.calls == 0 else "?"


def _short(dtype: str | None, row: Row | None = None) -> str:
    if dtype is None:
        return "-" if row is None else _brief(row)
    return "+".join(_SHORT.get(each, each) for each in dtype.split("+"))


def _size(value: float) -> str:
    """Bytes with three significant digits, in units of powers of 1024."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}"


def _number(value: float) -> str:
    return count(value, "").strip()


def _memory_cells(estimates: Sequence[Estimate]) -> list[list[str]]:
    cells = [["estimated memory", *(_policy(each) for each in estimates)]]
    for label, key in _MEMORY:
        values = [getattr(each, key) for each in estimates]
        cells.append([label, *(NOT_MEASURED if v is None else _size(v) for v in values)])
    cells.append(["FLOPs in 16 bits", *(_percent(each.half_flops_share) for each in estimates)])
    return cells


def _policy(estimate: Estimate) -> str:
    return f"{estimate.policy} (chosen)" if estimate.chosen else estimate.policy


def _memory_table(estimates: Sequence[Estimate]) -> Table:
    header, *cells = _memory_cells(estimates)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for position, name in enumerate(header):
        chosen = position > 0 and estimates[position - 1].chosen
        table.add_column(
            name, justify="right" if position else "left", style="bold" if chosen else ""
        )
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _print_entries(
    console: Console, title: str, entries: Sequence[Sequence[str]], *, always: bool = False
) -> None:
    """A heading with entries below it: the first line of each, and further lines indented.

    Args:
        always: say that there are none, where there are none.
    """
    if not entries and not always:
        return
    _print(console, f"{title}: {len(entries) or 'none'}", "bold")
    for first, *rest in entries:
        _print(console, f"  {first}", "yellow" if always else "")
        for line in rest:
            _print(console, f"      {line}")
    if not always:
        _print(console)


def _print_columns(
    console: Console, rows: Sequence[Sequence[str]], right: Sequence[bool] = ()
) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if i < len(right) and right[i] else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        _print(console, "  ".join(cells).rstrip())


def _print(console: Console, text: str = "", style: str = "") -> None:
    """A line: folded between words on a terminal, whole elsewhere, as is what may be copied."""
    shown = Text(printable(text, console.encoding), style)
    if console.is_terminal and TO_DO not in text:
        indent = len(text) - len(text.lstrip())
        shown = Text(printable(text.lstrip(), console.encoding), style)
        console.print(Padding(shown, (0, 0, 0, indent)) if indent else shown)
    else:
        console.print(shown, soft_wrap=True)
