"""Draws of rows, by class where there are classes."""

from __future__ import annotations

import numpy as np

from mpt.data import checks
from mpt.errors import ConfigurationError

SEED = 0
"""Of all draws, whatever the run's own: a model that goes on from the weights of another seed's run
must not meet that run's training examples in its validation."""


def apart(
    y: np.ndarray, rows: np.ndarray, count: int | None, fraction: float
) -> tuple[np.ndarray, np.ndarray, str]:
    """`count` of the rows drawn, then split: for training, for validation, and what the latter are.

    Raises:
        ConfigurationError: as `draw` and `split`; the fraction is not in [0, 1).
    """
    drawn = draw(y, rows, count)
    share = checks.fraction(fraction)
    source = f"{share:g} of the training examples" if share else "none"
    return (*split(y, drawn, share), source)


def draw(y: np.ndarray, rows: np.ndarray, count: int | None) -> np.ndarray:
    """`count` of the `rows` of `y`, each class in its share, ascending; all where it is None.

    Raises:
        ConfigurationError: more rows are asked for than there are, or fewer than one.
    """
    if count is None:
        return rows
    if not 1 <= count <= len(rows):
        raise ConfigurationError(
            f"{count} examples are asked for, there are {len(rows)}",
            where="dataset.examples",
            allowed=[f"1 to {len(rows)}", "null"],
        )
    return np.sort(rows[_spread(y, rows, count, np.random.default_rng((SEED, 1)))])


def split(y: np.ndarray, rows: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """`rows` in two parts, for training and for validation, both ascending.

    Args:
        y: labels; where they are one integer a row, each class is split in the same ratio, to
            within one row.
        rows: of `y`, to be split.
        fraction: share for validation, in [0, 1).

    Raises:
        ConfigurationError: the fraction leaves no row for validation.
    """
    if fraction == 0:
        return rows, rows[:0]
    count = round(len(rows) * fraction)
    if count == 0:
        raise ConfigurationError(
            f"{fraction:g} of {len(rows)} examples is less than one",
            where="dataset.validation_fraction",
            remedy="take more examples, a larger fraction, or 0 for no validation",
        )
    held_out = np.zeros(len(rows), bool)
    held_out[_spread(y, rows, count, np.random.default_rng((SEED, 2)))] = True
    return rows[~held_out], rows[held_out]


def _spread(y: np.ndarray, rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` positions in `rows`, drawn evenly from each class."""
    order = random.permutation(len(rows))
    if y.ndim == 1 and y.dtype.kind in "iu":
        order = order[np.argsort(y[rows[order]], kind="stable")]
    return order[((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)]
