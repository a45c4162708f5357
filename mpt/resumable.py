"""What outlives a run's process besides its steps: variables, callbacks, random numbers.

Each has `state`, plain values and NumPy arrays, and `restore`, which raises ValueError where a
state does not fit.
"""

import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator

from mpt.variables import changed_by_a_step, parts

State = dict[str, Any]


class Variables:
    """Every variable that training changes, by its place; each replica's own value."""

    def __init__(self, model: keras.Model):
        self._model = model
        # Weights as training left them, once their moving average has taken their place.
        self._raw: dict[int, np.ndarray] = {}

    def keep_raw(self) -> None:
        """Keep the weights as they are now for a checkpoint; an average will overwrite them."""
        self._raw = {id(part): part.numpy() for part in parts(self._model.trainable_variables)}

    def state(self) -> State:
        variables = changed_by_a_step(self._model)
        return {
            "paths": [variable.path for variable in variables],
            "values": [
                np.asarray(self._raw.get(id(part), part.numpy())) for part in parts(variables)
            ],
        }

    def restore(self, state: State) -> None:
        variables = changed_by_a_step(self._model)
        found = parts(variables)
        values = state["values"]
        if len(values) != len(found):
            raise ValueError(f"it has {len(values)} variables, the run has {len(found)}")
        for part, value in zip(found, values, strict=True):
            dtype = part.dtype.as_numpy_dtype
            if tuple(value.shape) != tuple(part.shape) or value.dtype != np.dtype(dtype):
                raise ValueError(
                    f"{part.name} is {np.dtype(dtype).name} {tuple(part.shape)}, "
                    f"in it {value.dtype.name} {value.shape}"
                )
        for part, value in zip(found, values, strict=True):
            part.assign(value)
        self._raw = {}


class Callbacks:
    """What Keras callbacks have counted: their attributes that are plain values or arrays.

    Functions, models and other objects are not kept: a callback makes those when it is built.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]):
        self._callbacks = list(callbacks)

    def state(self) -> State:
        return {"callbacks": [_attributes(callback) for callback in self._callbacks]}

    def restore(self, state: State) -> None:
        kept = state["callbacks"]
        names = [type(callback).__name__ for callback in self._callbacks]
        if [each["class"] for each in kept] != names:
            raise ValueError(f"its callbacks are not {', '.join(names)}")
        for callback, each in zip(self._callbacks, kept, strict=True):
            own = _attributes(callback)["values"]
            unset = {name for name, value in vars(callback).items() if value is None}
            for name, value in each["values"].items():
                if name in own or name in unset:
                    setattr(callback, name, _given_back(value, getattr(callback, name)))


class RandomNumbers:
    """The states of Python's, NumPy's, TensorFlow's and Keras's global generators.

    A TensorFlow operation with a seed of its own inside has a state that cannot be read.
    """

    def __init__(self) -> None:
        # Made now: Keras's takes a number of Python's when it is made.
        self._tensorflow = tf.random.get_global_generator()
        self._keras = global_seed_generator()

    def state(self) -> State:
        version, internal, gauss = random.getstate()
        name, keys, position, has_gauss, cached = np.random.get_state()
        return {
            "python": [version, np.asarray(internal, np.uint64), gauss],
            "numpy": [name, np.asarray(keys), int(position), int(has_gauss), float(cached)],
            "tensorflow": self._tensorflow.state.numpy(),
            "keras": parts([self._keras.state])[0].numpy(),
        }

    def restore(self, state: State) -> None:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(int(word) for word in internal), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys), *rest))
        self._tensorflow.state.assign(state["tensorflow"])
        for part in parts([self._keras.state]):
            part.assign(state["keras"])


def _attributes(callback: keras.callbacks.Callback) -> State:
    skipped = ("params", "_model", "validation_data")
    values = {
        name: _kept(value)
        for name, value in vars(callback).items()
        if name not in skipped and value is not None and _is_plain(value)
    }
    return {"class": type(callback).__name__, "values": values}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(child) for child in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and k[:1] != "$" and _is_plain(v) for k, v in value.items())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf" or value.dtype.name == "bfloat16"
    return value is None or isinstance(value, str | bool | int | float)


def _kept(value: Any) -> Any:
    """`value` as a checkpoint takes it: a NumPy number becomes an array without dimensions."""
    if isinstance(value, dict):
        return {key: _kept(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(child) for child in value]
    return np.asarray(value) if isinstance(value, np.generic) else value


def _given_back(kept: Any, present: Any = None) -> Any:
    """What `_kept` was given, in the container that the attribute has."""
    if isinstance(kept, dict):
        return {key: _given_back(child) for key, child in kept.items()}
    if isinstance(kept, list):
        values = [_given_back(child) for child in kept]
        return tuple(values) if isinstance(present, tuple) else values
    if isinstance(kept, np.ndarray):
        return kept.copy() if kept.ndim else kept[()]
    return kept
