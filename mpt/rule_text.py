"""What names layers and variables as text: patterns, and rules of precision.overrides."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpt.errors import ConfigurationError


def check_pattern(pattern: Any, *, where: str, remedy: str | None = None) -> None:
    """Refuse what is no regular expression.

    Raises:
        ConfigurationError: with where it stands.
    """
    try:
        re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ConfigurationError(
            f"{pattern!r} is no pattern: {error}", where=where, remedy=remedy
        ) from None


def naming(path: str, paths: Iterable[str]) -> str:
    """A pattern that names the layer at `path`, and no other.

    Args:
        paths: of all layers of the model, as in its precision table.
    """
    plain = not re.search(r"[*?\[\]:#]", path)
    names = [re.sub(r"#\d+$", "", each.rpartition("/")[2]) for each in paths]
    alone = names.count(path) == 1  # without a slash a pattern names layers at any depth
    return path if plain and ("/" in path or alone) else f"regex:^{re.escape(path)}$"


def float32_rule(path: str, paths: Iterable[str]) -> dict[str, str]:
    """The rule that keeps the layer at `path`, and what is inside it, in float32."""
    return {"match": naming(path, paths), "policy": "float32"}


IN_FLOAT32_BY_HAND = (
    "cast to float32 in front of that operation, keras.ops.cast(x, 'float32'), or put it into a "
    "layer of its own and keep that in float32"
)
"""What to do about an operation: precision.overrides names layers only."""


def as_override(rules: Sequence[Mapping[str, Any]]) -> str:
    """`precision.overrides=[...]` as it is typed, within double quotes."""
    typed = [
        "{" + ",".join(f"{key}:{_typed(value)}" for key, value in rule.items()) + "}"
        for rule in rules
    ]
    return f"precision.overrides=[{','.join(typed)}]"


def _typed(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(r"\w+", text) else f"'{text}'"
