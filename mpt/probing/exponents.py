"""How a tensor's numbers spread over the exponents, and what a dtype does to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CHUNK = 2**16  # elements at a time, so that they stay in the processor's cache
LOWEST, HIGHEST = -1074, 1023  # the exponents of float64's numbers

# Bits of the fraction, and the highest exponent (IEEE 754; bfloat16 is half a float32).
_FORMATS = {"float16": (10, 15), "bfloat16": (7, 127), "float32": (23, 127), "float64": (52, 1023)}

Array = np.ndarray[Any, Any]


@dataclass
class Histogram:
    """Counts of elements by exponent, floor(log2|x|); add another's to it by `add`.

    Attributes:
        counts: int64 (2098,), from exponent -1074 to 1023.
        zeros: elements that are exactly zero.
        non_finite: NaN and infinities.
    """

    counts: Array = field(default_factory=lambda: np.zeros(HIGHEST - LOWEST + 1, np.int64))
    zeros: int = 0
    non_finite: int = 0

    def add(self, values: Array) -> None:
        """Count the elements of `values`, of any floating dtype and shape."""
        for part in chunks(values):
            self._add_part(part if part.dtype == np.float64 else part.astype(np.float32))

    def _add_part(self, part: Array) -> None:
        # Of the bits themselves, which is several times faster than frexp: the exponent's field is
        # all ones for NaN and infinities, all zeros for zeros and subnormal numbers.
        mantissa, top = (52, 0x7FF) if part.dtype == np.float64 else (23, 0xFF)
        fields = (part.view(f"uint{8 * part.itemsize}") >> mantissa) & top
        found = np.bincount(fields.astype(np.int64), minlength=top + 1)
        small = part[fields == 0]
        small = small[small != 0]
        self.zeros += int(found[0]) - len(small)
        self.non_finite += int(found[top])
        first = 1 - top // 2 - LOWEST  # where the smallest normal number's exponent is
        self.counts[first : first + top - 1] += found[1:top]
        exponents = np.frexp(small.astype(np.float64))[1] - 1
        self.counts += np.bincount(exponents - LOWEST, minlength=len(self.counts))

    def merge(self, other: Histogram) -> None:
        """Add the counts of `other`."""
        self.counts = self.counts + other.counts
        self.zeros += other.zeros
        self.non_finite += other.non_finite

    @property
    def total(self) -> int:
        """Elements counted."""
        return int(self.counts.sum()) + self.zeros + self.non_finite

    def by_exponent(self) -> dict[int, int]:
        """The exponents that occur, ascending, with their counts."""
        return {int(i) + LOWEST: int(self.counts[i]) for i in np.flatnonzero(self.counts)}


@dataclass
class Limits:
    """What a floating dtype can hold.

    Attributes:
        largest: its largest finite number.
        smallest_normal: below it numbers lose bits.
        smallest: its smallest number above zero.
    """

    largest: float
    smallest_normal: float
    smallest: float


def limits(dtype: str) -> Limits:
    """The limits of "float16", "bfloat16", "float32" or "float64"."""
    bits, highest = _FORMATS[dtype]
    return Limits(
        (2.0 - 2.0**-bits) * 2.0**highest, 2.0 ** (1 - highest), 2.0 ** (1 - highest - bits)
    )


def unit_roundoff(dtype: str) -> float:
    """Half the distance from 1 to the next number: the relative error of one rounding."""
    return 2.0 ** -(_FORMATS[dtype][0] + 1)


def chunks(*arrays: Array) -> Iterator[Any]:
    """Flat pieces of arrays of one size, together; of one array the pieces alone."""
    flat = [np.reshape(array, -1) for array in arrays]
    for start in range(0, len(flat[0]), CHUNK):
        pieces = tuple(each[start : start + CHUNK] for each in flat)
        yield pieces if len(pieces) > 1 else pieces[0]
