"""HTML as text: one file that asks for nothing, without a script; all text is escaped."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from mpt.pages.tables import Cell, Table
from mpt.report.json_values import encode

# Nothing may be fetched, sent or run, whatever a name or a message holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def page(title: str, body: str) -> str:
    """The whole file."""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style()}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


# A median or an estimate, and the range that goes on a line of its own.
RANGE = re.compile(r"(.+?) (\(.+ to .+\).*)")


@cache
def style() -> str:
    """The style sheet, which lies beside this module."""
    return files("mpt.pages").joinpath("page.css").read_text(encoding="utf-8")


def section(key: str, title: str, *parts: str) -> str:
    """A part of the page with its heading; empty where all `parts` are."""
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    return f'<section id="{escape(key)}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def table(content: Table, *, swatches: dict[str, str] | None = None, caption: bool = False) -> str:
    """A table that scrolls in a box of its own; empty where it has no rows.

    Args:
        swatches: text of a first cell -> CSS class of the colour shown before it.
        caption: give it its title.
    """
    if not content.rows:
        return ""
    heads = "".join(
        f'<th scope="col"{_numeric(column.numeric)}>{escape(column.head)}</th>'
        for column in content.columns
    )
    rows = "".join(_row(content, row, swatches or {}) for row in content.rows)
    title = f"<caption>{escape(content.title)}</caption>" if caption else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in content.notes)
    return (
        f'<div class="scroll" tabindex="0"><table data-table="{escape(content.key)}">{title}'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{notes}"
    )


def _row(content: Table, row: list[Cell], swatches: dict[str, str]) -> str:
    cells = []
    for index, (column, cell) in enumerate(zip(content.columns, row, strict=True)):
        shown = escape(cell.text)
        if column.numeric and (found := RANGE.fullmatch(cell.text)):
            shown = f'{escape(found[1])} <span class="range">{escape(found[2])}</span>'
        if index == 0 and cell.text in swatches:
            shown = f'<span class="swatch {swatches[cell.text]}"></span>{shown}'
        name = "name" if index == 0 and cell.text in swatches else ""
        kind = " ".join(filter(None, [name, "number" if column.numeric else "", cell.tone]))
        tag = 'th scope="row"' if index == 0 else "td"
        cells.append(
            f'<{tag} data-key="{escape(column.key)}"{_data(cell.value)}'
            f"{_class(kind)}>{shown}</{tag.split()[0]}>"
        )
    return f'<tr data-row="{escape(row[0].text)}">{"".join(cells)}</tr>'


def _numeric(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _data(value: Any) -> str:
    return "" if value is None else f' data-value="{escape(str(encode(value)))}"'


def details(summary: str, content: str) -> str:
    """Content that opens on a click; print opens it too."""
    if not content:
        return ""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure(picture: str, caption: str, numbers: str = "") -> str:
    """A plot, what it shows, and its numbers."""
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption><div class="plot">{picture}</div>'
        f"{details('The numbers', numbers)}</figure>"
    )


def items(texts: list[str], kind: str = "") -> str:
    """A list."""
    if not texts:
        return ""
    return f"<ul{_class(kind)}>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; its lines stay lines."""
    return f"<p{_class(kind)}>{escape(text)}</p>"
