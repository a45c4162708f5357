"""Markdown for TensorBoard's Text page, in which nothing that a user named can be markup."""

import re
from collections.abc import Iterable, Mapping, Sequence

LAYER_COLUMNS = ("path", "class", "variable_dtype", "compute_dtype", "source")


def escape(text: str) -> str:
    """`text` as itself: each character that Markdown or HTML may read otherwise, as an entity."""
    return re.sub(r"[^\w\s.,:/()=+-]|[_\n\r]", lambda match: f"&#{ord(match[0])};", text)


def fenced(text: str, language: str = "") -> str:
    """`text` as a block of code, whatever it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A table with one row a mapping; a key that is absent is an empty cell."""
    lines = [" | ".join(escape(column) for column in columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(escape(str(row.get(column, ""))) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
