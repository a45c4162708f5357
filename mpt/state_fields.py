"""The fields of a kept state, read back: each has its type, or the state is refused."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST_WHOLE = 2**63 - 1  # what the device's counters hold


class Fields:
    """The values of a state that was kept as plain JSON values.

    Args:
        state: as it was read; anything.
        names: the fields that it must have, and no others.

    Raises:
        ValueError: `state` is no mapping of exactly these names. So does every method, where its
            field has another type or is out of range; the message names the field.
    """

    def __init__(self, state: Any, *names: str):
        if not isinstance(state, Mapping):
            raise ValueError(f"a mapping was expected, not {_shown(state)}")
        missing = sorted(set(names) - set(state))
        unknown = sorted(str(key) for key in state if key not in names)
        if missing or unknown:
            words = [f"no {name}" for name in missing]
            words += [f"an unknown {key:.40}" for key in unknown[:1]]
            raise ValueError(f"the state has {', '.join(words)}")
        self._values = state

    def is_none(self, name: str) -> bool:
        return self._values[name] is None

    def whole(self, name: str, *, least: int = 0) -> int:
        """A whole number of at least `least`, and below 2^63."""
        return whole(self._values[name], name, least=least)

    def number(self, name: str) -> float:
        """A number; NaN and infinities are numbers too."""
        return number(self._values[name], name)

    def flag(self, name: str) -> bool:
        value = self._values[name]
        if not isinstance(value, bool):
            raise _wrong(name, "true or false", value)
        return value

    def text(self, name: str) -> str:
        value = self._values[name]
        if not isinstance(value, str):
            raise _wrong(name, "text", value)
        return value

    def items(self, name: str) -> list[Any]:
        value = self._values[name]
        if not isinstance(value, list):
            raise _wrong(name, "a list", value)
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._values[name]
        if not isinstance(value, dict):
            raise _wrong(name, "a mapping", value)
        return value

    def array(self, name: str, dtype: str) -> np.ndarray:
        """An array of this dtype and of one dimension."""
        value = self._values[name]
        if not isinstance(value, np.ndarray) or value.dtype.name != dtype or value.ndim != 1:
            raise _wrong(name, f"a row of {dtype}", value)
        return value

    def seconds(self, name: str) -> float:
        """A time: a finite number of at least 0."""
        return finite(self.number(name), name, least=0.0)

    def part(self, name: str) -> Any:
        """The field as it is, for a `restore` of its own."""
        return self._values[name]


def whole(value: Any, name: str, *, least: int = 0) -> int:
    """`value`, where it is a whole number from `least` to 2^63 - 1; else ValueError."""
    right = isinstance(value, int) and not isinstance(value, bool)
    if not right or not least <= value <= LARGEST_WHOLE:
        raise _wrong(name, f"a whole number of at least {least}", value)
    return value


def number(value: Any, name: str) -> float:
    """`value` as a float, where it is a number; else ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise _wrong(name, "a number", value)


def finite(value: float, name: str, *, least: float = -math.inf) -> float:
    """`value`, where it is finite and at least `least`; else ValueError."""
    if not math.isfinite(value) or value < least:
        raise _wrong(name, f"finite and at least {least:g}", value)
    return value


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{name} should be {expected}, not {_shown(value)}")


def _shown(value: Any) -> str:
    plain = isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 1e18)
    return repr(value)[:40] if plain or value is None else f"a {type(value).__name__}"
