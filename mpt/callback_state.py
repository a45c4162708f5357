"""What Keras callbacks have counted, kept for a run that goes on in another process.

Kept are attributes that are plain values: numbers, texts, NumPy's numbers and arrays, and Python's
containers of these. Functions, models and other objects are not: a callback makes those when it is
built.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from mpt.packing import DTYPES

State = dict[str, Any]

SKIPPED = ("params", "_model", "validation_data")  # what Keras sets
# Where a callback compares a metric, Keras turns its sign when it first does so in a process.
SETTINGS = ("min_delta",)
# A container that is no list, and no mapping of texts, is a mapping of its kind to a list.
TUPLE, ITEMS = "$tuple", "$items"
COLLECTIONS = {"$set": set, "$frozenset": frozenset, "$deque": deque}
CONTAINERS = (dict, list, tuple, *COLLECTIONS.values())
# A list of numbers of one kind is an array: that of a metric grows by one each epoch, and each
# checkpoint holds all of it.
NUMBERS = {"$ints": (int, "int64"), "$floats": (float, "float64")}


class Callbacks:
    """A run's callbacks, as one part of its checkpoints."""

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]):
        self._callbacks = list(callbacks)

    def state(self) -> State:
        """The callbacks' attributes that are plain values."""
        return {
            "callbacks": [
                {
                    "class": type(callback).__name__,
                    "values": {n: kept(v) for n, v in _attributes(callback).items() if is_plain(v)},
                }
                for callback in self._callbacks
            ]
        }

    def restore(self, state: State) -> None:
        """Set the attributes; what is no plain value now stays as it is.

        Raises:
            ValueError: they are those of other callbacks, or of no callback of Keras's.
        """
        states = state["callbacks"]
        names = [type(callback).__name__ for callback in self._callbacks]
        if [each["class"] for each in states] != names:
            raise ValueError(f"its callbacks are not {', '.join(names)}")
        for callback, each in zip(self._callbacks, states, strict=True):
            present = _attributes(callback)
            for name, value in each["values"].items():
                if name in present and is_plain(present[name]):
                    found = given_back(value)
                    _check(callback, name, present[name], found)
                    setattr(callback, name, _into(present[name], found))


def is_plain(value: Any) -> bool:
    """Whether `kept` takes an attribute, and the same comes back."""
    if isinstance(value, dict | deque):  # of any class: `_into` refills the one that is there
        return _holds_plain(value)
    return _comes_back(value)


def _comes_back(value: Any) -> bool:
    """Whether `given_back` makes the same of what `kept` makes of it."""
    if type(value) in CONTAINERS:
        return getattr(value, "maxlen", None) is None and _holds_plain(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.name in DTYPES
    return value is None or isinstance(value, str | bool | int | float)


def _holds_plain(container: Any) -> bool:
    if isinstance(container, dict):
        container = (*container.keys(), *container.values())
    return set(map(type, container)) <= {int, float} or all(map(_comes_back, container))


def kept(value: Any) -> Any:
    """A plain value as a checkpoint takes it: a NumPy number becomes an array of no dimensions."""
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: kept(child) for key, child in value.items()}
        return {ITEMS: [[kept(key), kept(child)] for key, child in value.items()]}
    if isinstance(value, list):
        return _numbers(value) or [kept(child) for child in value]
    if isinstance(value, tuple):
        return {TUPLE: [kept(child) for child in value]}
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [kept(child) for child in value]}
    return np.asarray(value) if isinstance(value, np.generic) else value


def given_back(state: Any) -> Any:
    """The value that `kept` was given; of a mapping's subclass, the mapping."""
    if isinstance(state, list):
        return [given_back(child) for child in state]
    if isinstance(state, np.ndarray):
        return state.copy() if state.ndim else state[()]
    if not isinstance(state, dict):
        return state
    if ITEMS in state:
        return {given_back(key): given_back(child) for key, child in state[ITEMS]}
    if TUPLE in state:
        return tuple(given_back(child) for child in state[TUPLE])
    for name in NUMBERS:
        if name in state:
            return state[name].tolist()
    for name, kind in COLLECTIONS.items():
        if name in state:
            return kind(given_back(child) for child in state[name])
    return {key: given_back(child) for key, child in state.items()}


def _check(callback: keras.callbacks.Callback, name: str, present: Any, value: Any) -> None:
    """ValueError where a callback of Keras's has a value of another kind; a user's own may."""
    if not type(callback).__module__.startswith("keras.") or present is None or value is None:
        return
    if _kind(present) != _kind(value):
        raise ValueError(f"{name} of {type(callback).__name__} is {_kind(present)}")


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bool | int | float | np.number | np.bool_ | np.ndarray):
        return "a number"
    return "a mapping" if isinstance(value, dict) else "a sequence"


def _numbers(values: list[Any]) -> State | None:
    """A list of numbers of one kind, as an array; None where it is no such list."""
    kinds = set(map(type, values))
    for name, (kind, dtype) in NUMBERS.items():
        if kinds == {kind}:
            try:
                return {name: np.array(values, dtype)}
            except OverflowError:  # an integer of more than 64 bits
                return None
    return None


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    found = vars(callback)
    skipped = (*SKIPPED, *SETTINGS) if "monitor_op" in found else SKIPPED
    return {name: value for name, value in found.items() if name not in skipped}


def _into(present: Any, value: Any) -> Any:
    """`value`, in the container that is there: one with defaults or a length keeps them."""
    if isinstance(present, dict) and isinstance(value, dict):
        present.clear()
        present.update(value)
        return present
    if isinstance(present, deque) and isinstance(value, deque):
        present.clear()
        present.extend(value)
        return present
    return value
