"""A comparison as GitHub-flavoured Markdown, for a pull request or a CI summary."""

from __future__ import annotations

import re

from mpt.comparison.result import Comparison
from mpt.pages import tables
from mpt.pages.cells import Table
from mpt.printable import printable

# What Markdown would take for its own. An underscore between letters is not emphasis.
SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def markdown(comparison: Comparison) -> str:
    """The comparison: the verdict first, then what is not met, the tables, and what is said of
    each pairing.
    """
    parts = []
    for verdict in comparison.verdicts:
        scope = f"{escaped(verdict.scope)}: " if verdict.scope else ""
        lines = [f"**{scope}{escaped(verdict.sentence)}**"]
        if verdict.reasons:
            lines += ["", *(f"- {escaped(reason)}" for reason in verdict.reasons)]
        parts.append("\n".join(lines))
    for table in (
        tables.requirements(comparison),
        tables.pairings(comparison),
        tables.groups(comparison),
    ):
        parts += _table(table)
    parts += _remarks(comparison)
    for table in (
        tables.failures(comparison),
        tables.unreadable(comparison),
        tables.published(comparison),
        tables.settings(comparison),
        tables.choices(comparison),
        tables.environment(comparison),
    ):
        parts += _table(table)
    if comparison.notes:
        parts.append("\n".join(f"- {escaped(note)}" for note in comparison.notes))
    return printable("\n\n".join(parts) + "\n")


def _remarks(comparison: Comparison) -> list[str]:
    parts = []
    for pairing in comparison.pairings:
        remarks = tables.remarks(comparison, pairing)
        if remarks:
            title = f"{pairing.group.label} against {pairing.baseline.label}"
            lines = [f"- {kind}: {escaped(text)}" for kind, text in remarks]
            parts.append("\n".join([f"### {escaped(title)}", "", *lines]))
    return parts


def _table(table: Table) -> list[str]:
    if not table.rows:
        return []
    heads, *rows = ([escaped(text) for text in row] for row in table.texts)
    marks = ["---:" if column.numeric else "---" for column in table.columns]
    lines = [f"| {' | '.join(row)} |" for row in (heads, marks, *rows)]
    parts = [f"### {table.title}", "\n".join(lines)]
    return parts + [escaped(note) for note in table.notes]


def escaped(text: str) -> str:
    """`text` on one line, so that Markdown and HTML take it literally."""
    text = SPECIAL.sub(lambda match: "\\" + match[0], " ".join(text.split()))
    return "".join(ENTITIES.get(character, character) for character in text)
