"""The layers of a model as a run's report lists them, and the rules that keep some in float32."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from mpt.rule_text import naming
from mpt.schema import FLOAT8, HALF, LAYER_POLICIES

CONTAINERS = ("Functional", "Sequential")  # they pass tensors on, and compute nothing themselves


class Layers:
    """The table of a run in reduced precision.

    Args:
        rows: `precision.table` of its report: path, class, variable_dtype, compute_dtype; parents
            before children, the model itself first.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self._rows = {row["path"]: row for row in rows if _policy(row) is not None}
        self._root = rows[0]["path"] if rows else ""

    @cached_property
    def candidates(self) -> list[str]:
        """Paths of what can be kept in float32: layers in half precision, children first."""
        half = [path for path, row in self._rows.items() if row["compute_dtype"] in HALF]
        kept = [path for path in half if path != self._root or self._computes(path)]
        return _children_first(kept, self._root)

    @cached_property
    def all(self) -> frozenset[str]:
        """Every layer that computes in half precision."""
        return frozenset(path for path in self.candidates if self._computes(path))

    def within(self, path: str) -> frozenset[str]:
        """The layers that a rule on `path` takes along: itself and those below it.

        The model itself stands alone: with all below it, it would be the float32 policy.
        """
        return frozenset(each for each in self.all if _below(each, path))

    def overrides(self, kept: Iterable[str]) -> list[dict[str, str]]:
        """Rules by which `kept` computes in float32 and every other layer as it did.

        A rule holds for what lies below its layer too, so the children of a kept layer that are
        not kept themselves get their own policy back. A container follows its layers.

        Args:
            kept: paths, of `all`.
        """
        kept = frozenset(kept)
        present = {path: str(_policy(row)) for path, row in self._rows.items()}
        rules = []
        for path, row in self._rows.items():
            wanted = str(_policy(row))
            inside = [each for each in self.all if self._contains(path, each)]
            if path in kept or (not self._computes(path) and inside and kept.issuperset(inside)):
                wanted = "float32"
            if wanted == present[path]:
                continue
            rules.append({"match": self.match(path), "policy": wanted})
            present |= {each: wanted for each in self._rows if self._contains(path, each)}
        return rules

    def match(self, path: str) -> str:
        """A pattern that names the layer at `path`, and no other."""
        return naming(path, self._rows)

    def _computes(self, path: str) -> bool:
        row = self._rows[path]
        return row["compute_dtype"] in HALF and row["class"] not in CONTAINERS

    def _contains(self, outer: str, inner: str) -> bool:
        return outer == self._root or _below(inner, outer)


def _policy(row: Mapping[str, Any]) -> str | None:
    """What a rule calls a layer's policy; None where no rule could give it."""
    if row.get("quantization") is not None:
        return FLOAT8 if row["quantization"] == FLOAT8 else None
    variable, compute = row["variable_dtype"], row["compute_dtype"]
    name = compute if variable == compute else f"mixed_{compute}"
    return name if name in LAYER_POLICIES else None


def _below(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}/")


def _children_first(paths: Sequence[str], root: str) -> list[str]:
    """`paths`, given parents first, in the order in which layers' calls end; the model is last."""
    ordered: list[str] = []
    open_: list[str] = []
    for path in paths:
        if path == root:
            continue
        while open_ and not _below(path, open_[-1]):
            ordered.append(open_.pop())
        open_.append(path)
    return [*ordered, *reversed(open_), *([root] if root in paths else [])]
