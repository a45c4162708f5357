"""Rows of arrays that cannot be trained on: found, refused, or left out, and named in each case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mpt.data.examples import Examples
from mpt.data.left_out import NAMED, LeftOut
from mpt.errors import ConfigurationError

SKIP = "set dataset.on_error=skip to leave them out"

CHUNK_BYTES = 32 * 2**20
NAMED_IN_ERROR = 5


@dataclass(frozen=True)
class Broken:
    """Rows of one array that are broken in one way.

    Attributes:
        array: x or y.
        rows: ascending.
        error: what refuses them.
        why: given one of the rows, what is wrong with it, in few words.
    """

    array: str
    rows: np.ndarray
    error: ConfigurationError
    why: Callable[[int], str]


def find(
    parts: Sequence[Examples], classes: int | None
) -> tuple[int | None, list[list[Broken]], list[np.ndarray]]:
    """The broken rows of each part, and its other rows.

    Args:
        parts: as `mpt.data.checks.numbers` lets them pass.
        classes: labels must be in [0, classes); None takes the largest label plus one.

    Returns:
        The number of classes, None for float labels; what is broken, and the rows that are not,
        ascending int64, of each part.

    Raises:
        ConfigurationError: `classes` is below one, or given for labels that are not integers.
    """
    found = [_values(part) for part in parts]
    kept = [_others(part, causes) for part, causes in zip(parts, found, strict=True)]
    labels = [_take(part.y, rows) for part, rows in zip(parts, kept, strict=True)]
    classes = _classes(labels, classes)
    if classes is not None:
        for index, part in enumerate(parts):
            found[index] += _labels(part, kept[index], labels[index], classes)
            kept[index] = _others(part, found[index])
        classes = max(classes, 1)
    return classes, found, kept


def refuse(found: Sequence[Sequence[Broken]]) -> None:
    """Raise the error of the first broken rows, if there are any."""
    for causes in found:
        for cause in causes:
            raise cause.error


def leave_out(parts: Sequence[Examples], found: Sequence[Sequence[Broken]]) -> LeftOut:
    """The broken rows of all parts, counted once each and named.

    Raises:
        ConfigurationError: a part has no other rows.
    """
    left_out = LeftOut()
    for part, causes in zip(parts, found, strict=True):
        rows = _union(causes)
        of = max(len(part.x), len(part.y))
        left_out.of += of
        left_out.count += len(rows)
        names = [_name(part, causes, int(row)) for row in rows[: NAMED - len(left_out.names)]]
        left_out.names += names
        if len(rows) == of:
            raise ConfigurationError(
                f"all {of} rows are broken: {names[0] if names else causes[0].error.message}",
                where=part.where,
                remedy="write the data again",
            )
    return left_out


def named(rows: Sequence[int], count: int) -> str:
    """'row 3' or 'rows 3, 17, ...' for the first `rows` of `count`."""
    listed = ", ".join(str(row) for row in rows)
    return f"row{'s' if count > 1 else ''} {listed}{', ...' if count > len(rows) else ''}"


def _union(causes: Sequence[Broken]) -> np.ndarray:
    empty = np.empty(0, np.int64)
    return np.unique(np.concatenate([empty, *(cause.rows for cause in causes)]))


def _others(part: Examples, causes: Sequence[Broken]) -> np.ndarray:
    rows = np.arange(min(len(part.x), len(part.y)))
    return np.setdiff1d(rows, _union(causes), assume_unique=True) if causes else rows


def _take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, without a copy where these are all."""
    return array if len(rows) == len(array) else array[rows]


def _name(part: Examples, causes: Sequence[Broken], row: int) -> str:
    cause = next(cause for cause in causes if row in cause.rows)
    return f"row {row} of {part.called(cause.array)}: {cause.why(row)}"


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """`array` (rows, ...) in views of some 32 MiB, each with its first row's number.

    So a map is not read into memory at once.
    """
    step = max(1, CHUNK_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        yield start, np.asarray(array[start : start + step])


def _values(part: Examples) -> list[Broken]:
    """Rows without a partner, and rows that hold no usable numbers."""
    found = []
    together = min(len(part.x), len(part.y))
    if len(part.x) != len(part.y):
        longer = "x" if len(part.x) > len(part.y) else "y"
        surplus = np.arange(together, max(len(part.x), len(part.y)))
        error = ConfigurationError(
            f"x has {len(part.x)} rows, y has {len(part.y)}",
            where=part.where,
            remedy="give one label for each example, or set dataset.on_error=skip to leave out the "
            f"last {len(surplus)} rows of {longer}",
        )
        lack = "no label" if longer == "x" else "no example"
        found.append(Broken(longer, surplus, error, lambda row: lack))
    for name, array in (("x", part.x[:together]), ("y", part.y[:together])):
        rows = _unusable(array)
        if len(rows):
            found.append(_broken_numbers(part, name, array, rows))
    return found


def _broken_numbers(part: Examples, name: str, array: np.ndarray, rows: np.ndarray) -> Broken:
    def why(row: int) -> str:
        if array.dtype.kind != "f":
            return "a number beyond 32 bits"
        return "NaN" if np.isnan(array[row]).any() else "infinity"

    what = "NaN or infinity" if array.dtype.kind == "f" else "a number beyond 32 bits"
    error = ConfigurationError(
        f"{len(rows)} of {len(array)} rows hold {what}: {_first(rows)}",
        where=f"{part.where} ({name})",
        remedy=f"repair or remove these rows, or {SKIP}",
    )
    return Broken(name, rows, error, why)


def _unusable(array: np.ndarray) -> np.ndarray:
    """Rows with NaN or infinity, as float32 has them, or integers that int32 cannot hold."""
    if array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize < 4):
        return np.empty(0, np.int64)
    found = [np.empty(0, np.int64)]
    for start, chunk in chunks(array):
        if chunk.dtype.kind == "f":
            with np.errstate(over="ignore"):
                good = np.isfinite(chunk.astype(np.float32, copy=False))
        else:
            good = (chunk <= np.iinfo(np.int32).max) & (chunk >= np.iinfo(np.int32).min)
        if not good.all():
            found.append(start + np.flatnonzero(~good.reshape(len(chunk), -1).all(axis=1)))
    return np.concatenate(found)


def _classes(labels: Sequence[np.ndarray], classes: int | None) -> int | None:
    if any(part.dtype.kind == "f" for part in labels):
        if classes is not None:
            raise ConfigurationError(
                f"dataset.classes is {classes}, but the labels are of dtype {labels[0].dtype}",
                where="dataset.classes",
                remedy="save the labels as integers, or set dataset.classes=null for a regression",
            )
        return None
    if classes is None:
        return max((int(np.max(part)) for part in labels if part.size), default=0) + 1
    if classes < 1:
        raise ConfigurationError(f"{classes} classes", where="dataset.classes", allowed=[">= 1"])
    return classes


def _labels(part: Examples, rows: np.ndarray, labels: np.ndarray, classes: int) -> list[Broken]:
    """Those of `rows`, with their `labels`, that have one outside [0, classes)."""
    outside = (labels < 0) | (labels >= classes)
    if not outside.any():
        return []
    bad = rows[outside.reshape(len(labels), -1).any(axis=1)]

    def why(row: int) -> str:
        own = part.y[row : row + 1]
        return f"label {int(own[(own < 0) | (own >= classes)][0])}"

    error = ConfigurationError(
        f"{len(bad)} of {len(part.y)} rows have a label outside [0, {classes}), as "
        f"{int(labels[outside].ravel()[0])}: {_first(bad)}",
        where=f"{part.where} (y)",
        remedy=f"correct the labels, set dataset.classes, or {SKIP}",
    )
    return [Broken("y", bad, error, why)]


def _first(rows: np.ndarray) -> str:
    return named([int(row) for row in rows[:NAMED_IN_ERROR]], len(rows))
