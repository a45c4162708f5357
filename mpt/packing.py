"""Nested plain values and NumPy arrays as JSON and bytes, and back. Nothing is ever unpickled.

In the JSON the mapping {"$array": 3} stands for the fourth array, whose bytes lie apart.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401, NumPy learns bfloat16 and the float8 types from it
import numpy as np

MOST_DIMENSIONS = 32
REFERENCE = "$array"
LENGTH_BYTES = 8
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "int4", "uint4"),
)


def dumps(value: Any) -> bytes:
    """`value` as one message: the JSON's length, the JSON, the arrays.

    Args:
        value: strings, numbers, booleans, None and NumPy arrays, in lists, tuples and mappings of
            string keys; tuples come back as lists.

    Raises:
        TypeError: something that is none of the above.
    """
    arrays: list[np.ndarray] = []
    plain = without_arrays(value, arrays)
    header = json.dumps({"value": plain, "arrays": specs_of(arrays)}).encode()
    length = len(header).to_bytes(LENGTH_BYTES, "little")
    return b"".join((length, header, *map(content, arrays)))


def loads(message: bytes) -> Any:
    """What `dumps` was given; arrays are read-only.

    Raises:
        ValueError: the message is not one of `dumps`.
    """
    begin = LENGTH_BYTES + int.from_bytes(message[:LENGTH_BYTES], "little")
    try:
        header = json.loads(message[LENGTH_BYTES:begin])
        return with_arrays(
            header["value"], arrays_in(header["arrays"], memoryview(message)[begin:])
        )
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"no message: {error}") from error


def without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """`value` with references in place of its arrays, which are appended to `arrays`.

    Raises:
        TypeError: as `dumps`.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.name not in DTYPES:
            raise TypeError(f"no array of {value.dtype} can be kept")
        arrays.append(value)
        return {REFERENCE: len(arrays) - 1}
    if isinstance(value, Mapping):
        if REFERENCE in value or not all(isinstance(key, str) for key in value):
            raise TypeError("mappings must have strings for keys")
        return {key: without_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [without_arrays(child, arrays) for child in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"no {type(value).__name__} can be kept")


def with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """The reverse of `without_arrays`."""
    if isinstance(value, dict):
        if REFERENCE in value:
            return arrays[value[REFERENCE]]
        return {key: with_arrays(child, arrays) for key, child in value.items()}
    if isinstance(value, list):
        return [with_arrays(child, arrays) for child in value]
    return value


def specs_of(arrays: list[np.ndarray]) -> list[dict[str, Any]]:
    """What `specs` reads: each array's dtype and shape."""
    return [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]


def specs(written: list[dict[str, Any]]) -> Iterator[tuple[np.dtype, tuple[int, ...]]]:
    """The dtypes and shapes of arrays.

    Raises:
        ValueError: no array has such ones.
    """
    for spec in written:
        name, shape = spec["dtype"], tuple(spec["shape"])
        if name not in DTYPES or len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"no array is {name!r} of shape {shape}")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"no array is {name!r} of shape {shape}")
        yield np.dtype(name), shape


def arrays_in(written: list[dict[str, Any]], content: memoryview) -> list[np.ndarray]:
    """The arrays whose bytes lie in `content` one after another; views of it.

    Raises:
        ValueError: it is too short for them.
    """
    arrays = []
    offset = 0
    for dtype, shape in specs(written):
        array = np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
        arrays.append(array)
        offset += array.nbytes
    return arrays


def content(array: np.ndarray) -> Any:
    """The array's bytes, without a copy where they lie as they are written."""
    ordered = np.ascontiguousarray(array)
    if ordered.dtype.byteorder == ">":
        ordered = ordered.astype(ordered.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data
