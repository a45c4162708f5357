"""Rules that give some layers a policy of their own: an ordered list, the last match wins."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras

from mpt.errors import ConfigurationError, nearest
from mpt.precision.layers import graph_of, is_functional
from mpt.rule_text import IN_FLOAT32_BY_HAND
from mpt.schema import FLOAT8, FLOAT8_BASE, RULE_POLICIES

_KEYS = ("match", "policy")


@dataclass(frozen=True)
class Rule:
    """One override: layers that `match` names, and their descendants, take `policy`.

    `match` is a glob on the layer's path ("encoder/*"; without a slash, on the layer's name at
    any depth), "regex:PATTERN" searched in the path, or "class:NAME" for a class or its
    subclasses (a glob too).
    """

    index: int
    match: str
    policy: str

    @property
    def keras_policy(self) -> str:
        """Keras's name of the policy that layers get; what float8 is over, for float8."""
        return FLOAT8_BASE if self.policy == FLOAT8 else self.policy

    @property
    def where(self) -> str:
        return f"precision.overrides[{self.index}]"

    def names(self, path: str, layer: keras.layers.Layer) -> bool:
        """Whether the rule names this very layer."""
        kind, _, pattern = self.match.partition(":")
        if kind == "class":
            return any(fnmatchcase(cls.__name__, pattern) for cls in type(layer).__mro__)
        if kind == "regex":
            return re.search(pattern, path) is not None
        if "/" in self.match:
            return fnmatchcase(path, self.match)
        return fnmatchcase(layer.name, self.match)


def parse(overrides: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules in `overrides`, checked.

    Raises:
        ConfigurationError: an entry is not a {match, policy} pair, or names no layer policy.
    """
    return tuple(_parse_one(index, entry) for index, entry in enumerate(overrides))


def _parse_one(index: int, entry: Mapping[str, Any]) -> Rule:
    where = f"precision.overrides[{index}]"
    if not isinstance(entry, Mapping) or set(entry) != set(_KEYS):
        raise ConfigurationError(
            f"{entry!r} is not a rule of a match and a policy.",
            where=where,
            remedy="write {match: 'class:Softmax', policy: float32}",
        )
    match, policy = entry["match"], entry["policy"]
    if policy not in RULE_POLICIES:
        raise ConfigurationError(
            f"There is no layer policy {policy!r}.",
            where=f"{where}.policy",
            allowed=RULE_POLICIES,
            value=policy,
        )
    if not isinstance(match, str) or not match:
        raise ConfigurationError(
            f"{match!r} is not a pattern.",
            where=f"{where}.match",
            remedy="give a path glob, 'regex:PATTERN' or 'class:NAME'",
        )
    if match.startswith("regex:"):
        try:
            re.compile(match.removeprefix("regex:"))
        except re.error as error:
            raise ConfigurationError(
                f"{match!r} is not a regular expression: {error}.", where=f"{where}.match"
            ) from error
    return Rule(index, match, str(policy))


def operations(layers: Iterable[tuple[str, keras.layers.Layer]]) -> set[str]:
    """Names of what functional models among the layers compute outside of any layer."""
    return {
        operation.name
        for _, layer in layers
        if is_functional(layer)
        for operation in graph_of(layer)._operations
        if not isinstance(operation, keras.layers.Layer)
    }


def unmatched(rule: Rule, layers: Iterable[tuple[str, keras.layers.Layer]]) -> ConfigurationError:
    """The error for a rule that names no layer, with what it might have meant."""
    layers = list(layers)
    if rule.match.rpartition("/")[2] in operations(layers):
        return ConfigurationError(
            f"{rule.match!r} is an operation of the model's graph, and rules name layers.",
            where=f"{rule.where}.match",
            remedy=IN_FLOAT32_BY_HAND,
        )
    kind, _, pattern = rule.match.partition(":")
    if kind == "class":
        choices, given = {type(layer).__name__ for _, layer in layers}, f"class:{pattern}"
        choices = {f"class:{name}" for name in choices}
    else:
        choices, given = {path for path, _ in layers}, rule.match
    close = nearest(given, sorted(choices))
    listed = sorted(choices)
    shown = ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")
    return ConfigurationError(
        f"No layer matches {rule.match!r}."
        + (f" Did you mean {close!r}?" if close is not None else ""),
        where=f"{rule.where}.match",
        remedy=f"the model has {shown}",
    )
