"""Names of parts joined by dots: of modules, and of keys of a configuration."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def within(name: str, others: Iterable[str]) -> bool:
    """Whether `name` is one of the others, or of something in one of them."""
    return any(name == other or name.startswith(f"{other}.") for other in others)


def flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
