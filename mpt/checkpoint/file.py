"""One checkpoint as a file: nested plain values and arrays, with a checksum over all of it.

    magic     16 bytes, "mpt-checkpoint-1"
    length    of the header, 8 bytes, little-endian
    header    JSON: {"about", "state", "arrays": [{"dtype", "shape"}, ...]}
    arrays    their bytes one after another, little-endian, C order
    digest    SHA-256 of everything before it, 32 bytes

In `state` the mapping {"$array": 3} stands for the fourth array. Nothing is ever unpickled, and
what a header says is held against the file's own size before it is used.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes  # noqa: F401, NumPy learns bfloat16 and the float8 types from it
import numpy as np

from mpt.report import open_regular
from mpt.run_folder import PARTIAL, sync

MAGIC = b"mpt-checkpoint-1"
LENGTH_BYTES = 8
DIGEST_BYTES = hashlib.sha256().digest_size
LONGEST_HEADER = 2**28
MOST_DIMENSIONS = 32
REFERENCE = "$array"
CHANGED = "its checksum is wrong: it was cut short or changed"
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
)


class BrokenCheckpoint(ValueError):
    """The file is no whole checkpoint: cut short, changed, or never one."""


def write(path: Path, state: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint: aside, synced to the disk, then renamed.

    Args:
        path: the file, in an existing folder.
        state: strings, numbers, booleans, None and NumPy arrays, in lists, tuples and mappings
            of string keys; tuples come back as lists.
        about: plain values that `read_header` gives without reading the arrays.

    Raises:
        OSError: it cannot be written; a file that was there before is as it was.
        TypeError: something that is none of the above.
    """
    arrays: list[np.ndarray] = []
    plain = _without_arrays(state, arrays)
    specs = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    header = json.dumps({"about": dict(about or {}), "state": plain, "arrays": specs}).encode()
    partial = path.with_name(PARTIAL + path.name)
    try:
        with open(partial, "wb") as file:
            digest = hashlib.sha256()
            length = len(header).to_bytes(LENGTH_BYTES, "little")
            for content in (MAGIC, length, header, *map(_bytes, arrays)):
                digest.update(content)
                file.write(content)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, after its checksum was found right. Arrays are read-only.

    Raises:
        BrokenCheckpoint: it cannot be read, was cut short or changed, or is no checkpoint.
    """
    try:
        with open_regular(path) as file:
            beginning = _beginning(file)
            rest = os.fstat(file.fileno()).st_size - len(beginning)
            header = _expected(beginning, rest)
            content = file.read(rest)
    except OSError as error:
        raise BrokenCheckpoint(str(error.strerror)) from error
    body, digest = memoryview(content)[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    checksum = hashlib.sha256(beginning)
    checksum.update(body)
    if checksum.digest() != digest:
        raise BrokenCheckpoint(CHANGED)
    try:
        state = _with_arrays(header["state"], _arrays(header, body))
        if not isinstance(state, dict):
            raise TypeError("its state is no mapping")
        return state
    except Exception as error:  # a right checksum over nonsense: not written by `write`
        raise BrokenCheckpoint(f"it is no checkpoint of mpt: {error}") from error


def read_header(path: Path) -> dict[str, Any]:
    """What `write` was told `about` a checkpoint. Its checksum is not looked at.

    Raises:
        BrokenCheckpoint: not even the header can be read.
    """
    try:
        with open_regular(path) as file:
            about = _header(_beginning(file))["about"]
    except OSError as error:
        raise BrokenCheckpoint(str(error.strerror)) from error
    except BrokenCheckpoint:
        raise
    except Exception as error:
        raise BrokenCheckpoint("it was cut short or changed") from error
    if not isinstance(about, dict):
        raise BrokenCheckpoint("it is no checkpoint of mpt: nothing is said about it")
    return about


def _beginning(file: IO[bytes]) -> bytes:
    """A file's bytes up to the end of its header."""
    fixed = file.read(len(MAGIC) + LENGTH_BYTES)
    if len(fixed) < len(MAGIC) + LENGTH_BYTES and MAGIC.startswith(fixed[: len(MAGIC)]):
        raise BrokenCheckpoint("it was cut short")
    if not fixed.startswith(MAGIC):
        raise BrokenCheckpoint("it is no checkpoint of mpt")
    length = int.from_bytes(fixed[len(MAGIC) :], "little")
    if length > LONGEST_HEADER:
        raise BrokenCheckpoint("its header is too long")
    return fixed + file.read(length)


def _header(beginning: bytes) -> dict[str, Any]:
    header = json.loads(beginning[len(MAGIC) + LENGTH_BYTES :])
    if not isinstance(header, dict):
        raise BrokenCheckpoint("its header is no mapping")
    return header


def _expected(beginning: bytes, rest: int) -> dict[str, Any]:
    """The header, where what it announces is as long as the rest of the file.

    The checksum would find out too, but only after all of a file, whatever its size, is in memory.
    """
    try:
        header = _header(beginning)
        announced = sum(math.prod(shape) * dtype.itemsize for dtype, shape in _specs(header))
    except Exception as error:
        raise BrokenCheckpoint(CHANGED) from error
    if announced + DIGEST_BYTES != rest:
        raise BrokenCheckpoint(CHANGED)
    return header


def _specs(header: dict[str, Any]) -> Iterator[tuple[np.dtype, tuple[int, ...]]]:
    for spec in header["arrays"]:
        name, shape = spec["dtype"], tuple(spec["shape"])
        if name not in DTYPES or len(shape) > MOST_DIMENSIONS:
            raise BrokenCheckpoint(f"no array is {name!r} of shape {shape}")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise BrokenCheckpoint(f"no array is {name!r} of shape {shape}")
        yield np.dtype(name), shape


def _arrays(header: dict[str, Any], content: memoryview) -> list[np.ndarray]:
    arrays = []
    offset = 0
    for dtype, shape in _specs(header):
        array = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
        arrays.append(array)
        offset += array.nbytes
    return arrays


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.name not in DTYPES:
            raise TypeError(f"a checkpoint holds no array of {value.dtype}")
        arrays.append(value)
        return {REFERENCE: len(arrays) - 1}
    if isinstance(value, Mapping):
        if REFERENCE in value or not all(isinstance(key, str) for key in value):
            raise TypeError("a checkpoint's mappings have strings for keys")
        return {key: _without_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(child, arrays) for child in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a checkpoint holds no {type(value).__name__}")


def _with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if REFERENCE in value:
            return arrays[value[REFERENCE]]
        return {key: _with_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list):
        return [_with_arrays(child, arrays) for child in value]
    return value


def _bytes(array: np.ndarray) -> Any:
    """The array's bytes, without a copy where they lie as they are written."""
    ordered = np.ascontiguousarray(array)
    if ordered.dtype.byteorder == ">":
        ordered = ordered.astype(ordered.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data
