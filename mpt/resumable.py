"""What outlives a run's process besides its steps: variables and random numbers.

Each has `state`, plain values and NumPy arrays, and `restore`, which raises ValueError where a
state does not fit.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator

from mpt.state_fields import number, whole
from mpt.variables import changed_by_a_step, parts, path

State = dict[str, Any]

MT19937_WORDS = 624


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
            "paths": [path(variable) for variable in variables],
            "values": [
                np.asarray(self._raw.get(id(part), part.numpy())) for part in parts(variables)
            ],
        }

    def restore(self, state: State) -> None:
        """Give each variable its value.

        Raises:
            ValueError: the state is of other variables. Nothing has changed then.
        """
        variables = changed_by_a_step(self._model)
        found = parts(variables)
        values = state["values"]
        if len(values) != len(found):
            raise ValueError(f"it has {len(values)} variables, the run has {len(found)}")
        _refuse_swapped([path(variable) for variable in variables], state["paths"])
        for part, value in zip(found, values, strict=True):
            dtype = np.dtype(part.dtype.as_numpy_dtype)
            if not part.shape.is_compatible_with(value.shape) or value.dtype != dtype:
                raise ValueError(
                    f"{part.name} is {dtype.name} {part.shape}, "
                    f"in it {value.dtype.name} {value.shape}"
                )
        for part, value in zip(found, values, strict=True):
            part.assign(value)
        self._raw = {}


def _refuse_swapped(own: Sequence[str], kept: Sequence[str]) -> None:
    """Refuse the same variables in another order, where shapes alone might let them pass.

    Names may differ, and Keras counts those of layers up within a process (`dense`, `dense_1`),
    so only the same names in other places are told from that.

    Raises:
        ValueError: a variable is in another's place.
    """
    mine, theirs = ([re.sub(r"_\d+(?=[_/:]|$)", "", name) for name in each] for each in (own, kept))
    if mine != theirs and sorted(mine) == sorted(theirs):
        place = next(i for i, name in enumerate(mine) if name != theirs[i])
        raise ValueError(f"in it {kept[place]} is in the place of {own[place]}")


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
        """Go on with the numbers that would have followed.

        Raises:
            ValueError: it is no such state.
        """
        version, internal, gauss = state["python"]
        if gauss is not None:
            number(gauss, "gauss")
        name, keys, position, has_gauss, cached = state["numpy"]
        if whole(position, "position") > MT19937_WORDS:  # NumPy would read beyond its words
            raise ValueError(f"position {position} of {MT19937_WORDS} random words")
        kept = (name, np.array(keys), position, whole(has_gauss, "has_gauss"))
        random.setstate((version, tuple(int(word) for word in internal), gauss))
        np.random.set_state((*kept, number(cached, "cached_gaussian")))
        self._tensorflow.state.assign(state["tensorflow"])
        for part in parts([self._keras.state]):
            part.assign(state["keras"])
