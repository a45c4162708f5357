"""The search for a small set of elements with which a test passes; it knows nothing of layers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

T = TypeVar("T")


class SpentError(Exception):
    """The test may not be tried any more."""


@dataclass
class Search(Generic[T]):
    """A search, whose finds stay when a test raises (`SpentError`, an interrupt).

    Attributes:
        passes: the test, on a set of elements; the empty set is known to fail.
        best: the smallest set that passed so far, in the ranking's order; None: none did.
        minimal: whether `best` fails as soon as any one element is taken out.
    """

    passes: Callable[[frozenset[T]], bool]
    best: tuple[T, ...] | None = None
    minimal: bool = False

    def grow(self, ranking: Sequence[T]) -> bool:
        """Try the first 1, 2, 4, 8, ... elements of `ranking`, and all, until a set passes.

        Returns:
            Whether one did; it is `best`.
        """
        size = 1
        while size < 2 * len(ranking):
            if self._try(ranking[:size]):
                return True
            size *= 2
        return False

    def minimize(self) -> None:
        """Take elements out of `best` until no single one can be.

        Delta debugging's ddmin (Zeller and Hildebrandt, "Simplifying and Isolating
        Failure-Inducing Input", IEEE TSE 28(2), 2002), for sets that pass instead of inputs that
        fail: at most n(n + 3) tests for n elements, about 2 log2 n where one element suffices.
        """
        assert self.best is not None
        parts = 2
        while len(self.best) > 1:
            chunks = _split(self.best, parts)
            complements = [_without(self.best, chunk) for chunk in chunks] if parts > 2 else []
            if any(self._try(chunk) for chunk in chunks):
                parts = 2
            elif any(self._try(complement) for complement in complements):
                parts = max(parts - 1, 2)
            elif parts < len(self.best):
                parts = min(2 * parts, len(self.best))
            else:
                break
        self.minimal = True

    def _try(self, elements: Sequence[T]) -> bool:
        if not self.passes(frozenset(elements)):
            return False
        self.best = tuple(elements)
        return True


def _split(elements: Sequence[T], parts: int) -> list[tuple[T, ...]]:
    """`elements` in `parts` runs whose lengths differ by at most one."""
    edges = [len(elements) * part // parts for part in range(parts + 1)]
    return [tuple(elements[low:high]) for low, high in pairwise(edges)]


def _without(elements: Sequence[T], chunk: Iterable[T]) -> tuple[T, ...]:
    left_out = set(chunk)
    return tuple(element for element in elements if element not in left_out)
