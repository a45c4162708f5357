"""What examples must satisfy before a run begins; each failure is a ConfigurationError."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    from mpt.data.pipeline import Examples

CHUNK_BYTES = 32 * 2**20
HASHED_WHOLE = 16 * 2**20
HASHED_ROWS = 4096
NAMED_ROWS = 5


def examples(part: Examples) -> Examples:
    """`part` with labels of shape (rows, 1) made (rows,), after all checks but the labels' range.

    Raises:
        ConfigurationError: lengths that differ, no rows, a dtype that is no number, NaN or
            infinity (the rows counted and the first named), an integer beyond 32 bits.
    """
    if part.x.ndim == 0 or part.y.ndim == 0:
        raise ConfigurationError("x and y need one entry a row, got a scalar", where=part.where)
    if len(part.x) != len(part.y):
        raise ConfigurationError(
            f"x has {len(part.x)} rows, y has {len(part.y)}",
            where=part.where,
            remedy="give one label for each example",
        )
    if len(part.x) == 0:
        raise ConfigurationError("there are no examples", where=part.where)
    for name, array in (("x", part.x), ("y", part.y)):
        _numbers(array, f"{part.where} ({name})")
        _finite(array, f"{part.where} ({name})")
    if part.y.ndim == 2 and part.y.shape[1] == 1 and part.y.dtype.kind in "iub":
        return replace(part, y=part.y[:, 0])
    return part


def _numbers(array: np.ndarray, where: str) -> None:
    if array.dtype.kind not in "fiub":
        raise ConfigurationError(
            f"the dtype {array.dtype} holds no plain numbers",
            where=where,
            allowed=["float", "int", "uint8", "bool"],
            remedy="convert it and save it again; pickled objects are never loaded",
        )


def _finite(array: np.ndarray, where: str) -> None:
    """NaN and infinity, as float32 has them, and integers that int32 cannot hold."""
    if array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize < 4):
        return
    step = max(1, CHUNK_BYTES // max(1, array[0].nbytes))
    count = 0
    first: list[int] = []
    for start in range(0, len(array), step):
        chunk = np.asarray(array[start : start + step])
        if chunk.dtype.kind == "f":
            with np.errstate(over="ignore"):
                good = np.isfinite(chunk.astype(np.float32, copy=False))
        else:
            good = (chunk <= np.iinfo(np.int32).max) & (chunk >= np.iinfo(np.int32).min)
        if good.all():
            continue
        bad = np.flatnonzero(~good.reshape(len(chunk), -1).all(axis=1))
        count += len(bad)
        first += [start + int(row) for row in bad[: NAMED_ROWS - len(first)]]
    if count:
        what = "NaN or infinity" if array.dtype.kind == "f" else "a number beyond 32 bits"
        raise ConfigurationError(
            f"{count} of {len(array)} rows hold {what}: {named(first, count)}",
            where=where,
            remedy="repair or remove these rows",
        )


def named(rows: Sequence[int], count: int) -> str:
    """'row 3' or 'rows 3, 17, ...' for the first `rows` of `count`."""
    listed = ", ".join(str(row) for row in rows)
    return f"row{'s' if count > 1 else ''} {listed}{', ...' if count > len(rows) else ''}"


def labels(parts: Sequence[Examples], classes: int | None) -> int | None:
    """The number of classes: `classes`, or the largest label plus one; None for float labels.

    Raises:
        ConfigurationError: a label outside [0, classes), with its rows, or `classes` given for
            labels that are not integers.
    """
    if any(part.y.dtype.kind == "f" for part in parts):
        if classes is not None:
            raise ConfigurationError(
                f"dataset.classes is {classes}, but the labels are of dtype {parts[0].y.dtype}",
                where="dataset.classes",
                remedy="save the labels as integers, or set dataset.classes=null for a regression",
            )
        return None
    if classes is None:
        classes = max(int(np.max(part.y)) for part in parts) + 1
    elif classes < 1:
        raise ConfigurationError(f"{classes} classes", where="dataset.classes", allowed=[">= 1"])
    for part in parts:
        outside = (part.y < 0) | (part.y >= classes)
        if outside.any():
            bad = np.flatnonzero(outside.reshape(len(part.y), -1).any(axis=1))
            worst = part.y[outside].ravel()[0]
            raise ConfigurationError(
                f"{len(bad)} of {len(part.y)} rows have a label outside [0, {classes}), as "
                f"{int(worst)}: {named([int(row) for row in bad[:NAMED_ROWS]], len(bad))}",
                where=f"{part.where} (y)",
                remedy="correct the labels, or set dataset.classes",
            )
    return max(classes, 1)


def different_shapes(train: Examples, validation: Examples) -> ConfigurationError:
    """The error for validation examples of another shape."""
    return ConfigurationError(
        f"training examples have the shape {train.x.shape[1:]}, validation examples "
        f"{validation.x.shape[1:]}",
        where=validation.where,
    )


def fraction(value: float) -> float:
    """`value`, where it is in [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigurationError(
            f"{value:g} is no share of the examples",
            where="dataset.validation_fraction",
            allowed=["0 or more and below 1"],
        )
    return float(value)


def batch(batch_size: int) -> None:
    """Refuses a batch of no rows."""
    if batch_size < 1:
        raise ConfigurationError(
            f"a batch of {batch_size} rows", where="batch_size", allowed=["1 or more"]
        )


def enough(rows: int, batch_size: int, where: str) -> None:
    """Refuses fewer training rows than one batch holds."""
    if rows < batch_size:
        raise ConfigurationError(
            f"a batch of {batch_size} is larger than the {rows} training examples of {where}",
            where="batch_size",
            allowed=[f"1 to {rows}"] if rows else [],
            remedy=f"set batch_size={rows} or less" if rows else "take more examples",
        )


def fingerprint(parts: Sequence[Examples]) -> str:
    """SHA-256 of the arrays: shapes, dtypes, and the content.

    Of an array above 16 MiB, 4,096 rows spread over its length stand for the content.
    """
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.x, part.y):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            if array.nbytes > HASHED_WHOLE and len(array) > HASHED_ROWS:
                array = array[np.linspace(0, len(array) - 1, HASHED_ROWS).astype(np.int64)]
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
