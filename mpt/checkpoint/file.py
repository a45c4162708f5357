"""One checkpoint as a file: nested plain values and arrays, with a checksum over all of it.

    magic     16 bytes, "mpt-checkpoint-1"
    length    of the header, 8 bytes, little-endian
    header    JSON: {"about", "state", "arrays": [{"dtype", "shape"}, ...]}
    arrays    their bytes one after another, little-endian, C order
    digest    SHA-256 of everything before it, 32 bytes

State and arrays are written as `mpt.packing` says. What a header says is held against the file's
own size before it is used.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mpt import packing
from mpt.report import open_regular
from mpt.whole_file import PARTIAL, replacing

MAGIC = b"mpt-checkpoint-1"
LENGTH_BYTES = 8
DIGEST_BYTES = hashlib.sha256().digest_size
LONGEST_HEADER = 2**28
CHANGED = "its checksum is wrong: it was cut short or changed"


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
    plain = packing.without_arrays(state, arrays)
    specs = packing.specs_of(arrays)
    header = json.dumps({"about": dict(about or {}), "state": plain, "arrays": specs}).encode()
    partial = path.with_name(PARTIAL + path.name)
    with replacing(path, partial) as file:
        digest = hashlib.sha256()
        length = len(header).to_bytes(LENGTH_BYTES, "little")
        for content in (MAGIC, length, header, *map(packing.content, arrays)):
            digest.update(content)
            file.write(content)
        file.write(digest.digest())


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
        state = packing.with_arrays(header["state"], packing.arrays_in(header["arrays"], body))
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
        specs = packing.specs(header["arrays"])
        announced = sum(math.prod(shape) * dtype.itemsize for dtype, shape in specs)
    except Exception as error:
        raise BrokenCheckpoint(CHANGED) from error
    if announced + DIGEST_BYTES != rest:
        raise BrokenCheckpoint(CHANGED)
    return header
