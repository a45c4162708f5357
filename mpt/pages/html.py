"""HTML as text: one file that asks for nothing, without a script; all text is escaped."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from mpt.pages.cells import RANGE, Cell, Column, Table
from mpt.report.json_values import encode

SHORT = 24
"""Characters of a text that is not wrapped in its cell."""
# Nothing may be fetched, sent or run, whatever a name or a message holds.
# Control characters, and those that turn the direction of what follows them.
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


def page(title: str, body: str) -> str:
    """The whole file. Control characters are escaped, and what UTF-8 has no place for, such as odd
    bytes of a path.
    """
    text = (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style()}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
    text = UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


def table(
    content: Table,
    *,
    swatches: dict[str, str] | None = None,
    caption: bool = False,
    upright: bool = False,
) -> str:
    """A table that scrolls in a box of its own; empty where it has no rows.

    Every cell says which row and which column it is (data-row, data-key), whichever way the table
    lies, and the full number behind its text (data-value).

    Args:
        swatches: text of a first cell -> CSS class of the colour shown before it.
        caption: give it its title.
        upright: a column for each row of `content`, for few rows with many columns.
    """
    if not content.rows:
        return ""
    swatches = swatches or {}
    columns = content.columns
    if upright:
        heads = ["<td></td>", *(_head(row[0].text, "col", True, swatches) for row in content.rows)]
        rows = [
            [
                _head(column.head, "row", False, {}),
                *(_cell(row[0].text, column, row[index]) for row in content.rows),
            ]
            for index, column in enumerate(columns[1:], start=1)
        ]
    else:
        heads = [_head(column.head, "col", column.numeric, {}) for column in columns]
        rows = [
            [
                _head(row[0].text, "row", False, swatches),
                *(_cell(row[0].text, *each) for each in zip(columns[1:], row[1:], strict=True)),
            ]
            for row in content.rows
        ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    named = upright or any(column.head for column in columns)
    head = f"<thead><tr>{''.join(heads)}</tr></thead>" if named else ""
    title = f"<caption>{escape(content.title)}</caption>" if caption else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in content.notes)
    label = escape(content.title)
    return (
        f'<div class="scroll" role="group" aria-label="{label}" tabindex="0">'
        f'<table data-table="{escape(content.key)}">{title}'
        f"{head}<tbody>{body}</tbody></table></div>{notes}"
    )


def _head(text: str, scope: str, numeric: bool, swatches: dict[str, str]) -> str:
    shown = escape(text)
    if text in swatches:
        shown = f'<span class="swatch {swatches[text]}"></span>{shown}'
    kinds = (["name"] if text in swatches else []) + (["number"] if numeric else [])
    return f'<th scope="{scope}"{_class(" ".join(kinds))}>{shown}</th>'


def _cell(row: str, column: Column, cell: Cell) -> str:
    shown = escape(cell.text)
    if column.numeric and (found := RANGE.fullmatch(cell.text)):
        shown = f'{escape(found[1])} <span class="range">{escape(found[2])}</span>'
    form = "number" if column.numeric else "name" if len(cell.text) <= SHORT else ""
    kind = " ".join(filter(None, [form, cell.tone]))
    where = f' data-row="{escape(row)}" data-key="{escape(column.key)}"'
    return f"<td{where}{_data(cell.value)}{_class(kind)}>{shown}</td>"


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
