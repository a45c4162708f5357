"""Text for a console or a page as it may be written there: no control codes, lines where they are.

What a configuration, a path or a report says is anybody's: an escape sequence in it would be a
command to the terminal, and a line break could look like a line of ours.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mpt.errors import ConfigurationError

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")  # for Hydra's grammar and for a shell


def printable(text: str, encoding: str = "utf-8") -> str:
    """`text` with control characters, and what `encoding` lacks, as backslash escapes."""
    kept = "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)
    return kept.encode(encoding, "backslashreplace").decode(encoding)


def path_text(path: str | Path) -> str:
    """`path` on one line, its spaces as they are: it may be copied."""
    return printable(str(path)).replace("\n", "\\n")


def one_line(text: str) -> str:
    """`text` without line breaks, so that what a file holds cannot look like a line of ours."""
    return printable(" ".join(text.split()))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of as many texts each as lines, the texts below one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def print_error(error: Exception, *, debug: bool) -> None:
    """Print `error` as one block on stderr; with `debug`, its traceback first.

    Args:
        error: one of ours, in its own words, or one that nobody expected, by its type.
    """
    if debug:
        import traceback  # not above: the help need not wait for it

        traceback.print_exception(error)
    if isinstance(error, ConfigurationError):
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return
    print(f"error: {type(error).__name__}: {printable(str(error))}", file=sys.stderr)
    if not debug:
        print("  to do:   --debug shows the traceback", file=sys.stderr)


def hydra_quoted(text: object) -> str:
    """`text` as a quoted value of Hydra's grammar, whatever characters it has."""
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", str(text))
    return f"'{quoted}'"


def shell_word(key: str, value: object) -> str:
    """`key=value` as a word of a command line that can be copied into a shell."""
    text = str(value)
    if _PLAIN.fullmatch(text):
        return f"{key}={text}"
    return shlex.quote(f"{key}={hydra_quoted(text)}")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
