"""Values as JSON: NaN and infinities become strings, since JSON has no word for them."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any) -> Any:
    """`value` in what JSON can hold.

    Non-finite floats become "NaN", "Infinity" or "-Infinity"; NumPy scalars and arrays become
    Python's numbers and lists; dataclasses and mappings become dicts; paths become strings.

    Raises:
        TypeError: `value` holds something else, such as a tensor.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _float(float(value))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [encode(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def decode(value: Any) -> Any:
    """The number that one of the three strings stands for; any other value as it is."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as UTC, ISO 8601, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
