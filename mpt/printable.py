"""Text for a console or a page as it may be written there: no control codes, lines where they are.

What a configuration, a path or a report says is anybody's: an escape sequence in it would be a
command to the terminal, and a line break could look like a line of ours.
"""

import re
import shlex
from pathlib import Path

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
