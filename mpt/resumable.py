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

from mpt import replicas
from mpt.state_fields import number, whole
from mpt.variables import Variable, changed_by_a_step, parts, path
from mpt.workers import ALONE, Team

State = dict[str, Any]

MT19937_WORDS = 624


class Variables:
    """Every variable that training changes, by its place.

    What may differ between replicas is kept of each one, in this process and in others: as many
    replicas as there were go on bit for bit, and others with the mean, or with the sum where it is
    one. The rest is kept once.
    """

    def __init__(self, model: keras.Model, team: Team = ALONE):
        self._model = model
        self._team = team
        # Weights as training left them, once their moving average has taken their place.
        self._raw: dict[int, np.ndarray] = {}

    def keep_raw(self) -> None:
        """Keep the weights as they are now for a checkpoint; an average will overwrite them."""
        self._raw = {id(part): part.numpy() for part in parts(self._model.trainable_variables)}

    def state(self) -> State:
        """The values; all members of the team must ask for them."""
        variables = changed_by_a_step(self._model)
        own = replicas.differing(self._model)
        copies = dict(zip(map(id, own), replicas.copies_of(own, self._team), strict=True))
        values = [copies.get(id(each)) or [self._value(each)] for each in variables]
        return {
            "paths": [path(variable) for variable in variables],
            "copies": [len(each) for each in values],
            "values": [np.asarray(copy) for each in values for copy in each],
        }

    def _value(self, variable: Variable) -> np.ndarray:
        first = parts([variable])[0]
        return self._raw.get(id(first), first.numpy())

    def restore(self, state: State) -> None:
        """Give each variable its value.

        Raises:
            ValueError: the state is of other variables. Nothing has changed then.
        """
        variables = changed_by_a_step(self._model)
        copies, values = list(state["copies"]), iter(state["values"])
        if len(copies) != len(variables):
            raise ValueError(f"it has {len(copies)} variables, the run has {len(variables)}")
        _refuse_swapped([path(variable) for variable in variables], state["paths"])
        kept = [[next(values) for _ in range(whole(count, "copies", least=1))] for count in copies]
        for variable, each in zip(variables, kept, strict=True):
            part = parts([variable])[0]
            dtype = np.dtype(part.dtype.as_numpy_dtype)
            for value in each:
                if not part.shape.is_compatible_with(value.shape) or value.dtype != dtype:
                    raise ValueError(
                        f"{part.name} is {dtype.name} {part.shape}, "
                        f"in it {value.dtype.name} {value.shape}"
                    )
        for variable, each in zip(variables, kept, strict=True):
            own = parts([variable])
            for part, value in zip(own, self._own(variable, each, len(own)), strict=True):
                part.assign(value)
        self._raw = {}

    def _own(self, variable: Variable, copies: list[np.ndarray], local: int) -> list[np.ndarray]:
        """The values of this process's replicas."""
        count, first = local * self._team.size, local * self._team.rank
        if len(copies) == 1 and not replicas.is_summed(variable):
            return copies * local
        if len(copies) != count:
            copies = replicas.shared_out(variable, copies, count)
        return copies[first : first + local]


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
