"""What examples must satisfy before a run begins; each failure is a ConfigurationError."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpt.data.broken import chunks
from mpt.data.examples import Examples
from mpt.errors import ConfigurationError

HASHED_WHOLE = 4 * 2**30
"""Bytes of a map, read and hashed at 1 to 2 GB/s from the system's cache; arrays in memory are
hashed whole whatever their size."""

HASHED_ROWS = 4096


def numbers(part: Examples) -> Examples:
    """`part` with integer labels of shape (rows, 1) made (rows,), where it holds plain numbers.

    Raises:
        ConfigurationError: a scalar, no rows, or a dtype that is no number.
    """
    if part.x.ndim == 0 or part.y.ndim == 0:
        raise ConfigurationError("x and y need one entry a row, got a scalar", where=part.where)
    if len(part.x) == len(part.y) == 0:
        raise ConfigurationError("there are no examples", where=part.where)
    for name, array in (("x", part.x), ("y", part.y)):
        if array.dtype.kind not in "fiub":
            raise ConfigurationError(
                f"the dtype {array.dtype} holds no plain numbers",
                where=f"{part.where} ({name})",
                allowed=["float", "int", "uint8", "bool"],
                remedy="convert it and save it again; pickled objects are never loaded",
            )
    if part.y.ndim == 2 and part.y.shape[1] == 1 and part.y.dtype.kind in "iub":
        return replace(part, y=part.y[:, 0])
    return part


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


def enough(rows: int, batch_size: int, where: str, left_out: str = "") -> None:
    """Refuses fewer training rows than one batch holds; `left_out` tells why they are so few."""
    if rows < batch_size:
        why = f"; {left_out}" if left_out else ""
        raise ConfigurationError(
            f"a batch of {batch_size} is larger than the {rows} training examples of {where}{why}",
            where="batch_size",
            allowed=[f"1 to {rows}"] if rows else [],
            remedy=f"set batch_size={rows} or less" if rows else "take more examples",
        )


def fingerprint(parts: Sequence[Examples], kept: Sequence[np.ndarray] = ()) -> str:
    """SHA-256 of the arrays: shapes, dtypes, and the content.

    Of a map above 4 GiB, 4,096 rows spread over its length (no more than 4 GiB of them), and the
    size of its file and the time of its last change, stand for the content.

    Args:
        parts: the arrays.
        kept: the rows that are used, where some are left out.
    """
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.x, part.y):
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            for piece in _content(array):
                digest.update(np.ascontiguousarray(piece).data)
    for rows in kept:
        digest.update(f"kept {len(rows)}".encode())
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def _content(array: np.ndarray) -> Iterator[np.ndarray]:
    file = getattr(array, "filename", None)  # of a map, unless it was copied
    if file is None or array.nbytes <= HASHED_WHOLE:
        yield from (chunk for _, chunk in chunks(array))
        return
    spread = min(HASHED_ROWS, max(1, HASHED_WHOLE * len(array) // array.nbytes))
    yield from (array[row] for row in np.linspace(0, len(array) - 1, spread).astype(np.int64))
    state = Path(file).stat()
    yield np.array([state.st_size, state.st_mtime_ns])
