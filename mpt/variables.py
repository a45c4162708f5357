"""The values behind Keras's variables, each replica's own, and those that Keras does not list."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

Variable: TypeAlias = keras.Variable | tf.Variable


def components(variables: Sequence[Variable]) -> list[Sequence[tf.Variable]]:
    """TensorFlow's variables behind each one: one a replica where it is distributed."""
    values = [
        variable.value if isinstance(variable, keras.Variable) else variable
        for variable in variables
    ]
    return [getattr(value, "values", (value,)) for value in values]


def parts(variables: Sequence[Variable]) -> list[tf.Variable]:
    """As `components`, one list of all."""
    return [part for own in components(variables) for part in own]


def changed_by_a_step(model: keras.Model) -> list[Variable]:
    """Every variable that training changes, each once.

    Weights, seeds, metrics, the optimizer's, and those of `held`.
    """
    listed = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    found: dict[int, Variable] = {}
    known: set[int] = set()  # one value may be held bare, and by a variable of Keras's
    for variable in [*listed, *held(model)]:
        own = {id(part) for part in parts([variable])}
        if not own <= known:
            found[id(variable)] = variable
        known |= own
    return list(found.values())


def held(model: keras.Model) -> Iterator[Variable]:
    """The variables in attributes of the model and its layers, whether Keras lists them or not.

    TensorFlow's own variables and generators, and the slots of further optimizers, as in a
    `train_step` of a user's with two of them; also within a list, tuple or mapping. A variable
    that holds no numbers is left out.
    """
    for layer in model._flatten_layers():
        for attribute in list(vars(layer).values()):
            for value in _contents(attribute):
                yield from _variables_of(value)


def _contents(attribute: Any) -> list[Any]:
    """What a container of Python's or of a tracker's holds; else the attribute itself."""
    if isinstance(attribute, Mapping):
        return list(attribute.values())
    return list(attribute) if isinstance(attribute, list | tuple) else [attribute]


def _variables_of(value: Any) -> list[Variable]:
    if isinstance(value, tf.Variable):
        kind = value.dtype
        numbers = kind.is_floating or kind.is_integer or kind.is_complex or kind.is_bool
        return [value] if numbers else []
    if isinstance(value, keras.Variable):
        return [value]
    if isinstance(value, tf.random.Generator | keras.random.SeedGenerator):
        return [value.state]
    return list(value.variables) if isinstance(value, keras.Optimizer) else []


def is_overwritten(variable: Variable) -> bool:
    """Whether the variable's "gradient" is its next value, as it is of float8's scales."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def parameters(weights: Iterable[Variable]) -> int:
    """Elements of `weights`, those that are overwritten left out: they are no parameters."""
    return sum(math.prod(weight.shape) for weight in weights if not is_overwritten(weight))


def path(variable: Variable) -> str:
    """Keras's path, or TensorFlow's name."""
    return str(variable.path if isinstance(variable, keras.Variable) else variable.name)


def values(variables: Sequence[Variable]) -> list[np.ndarray]:
    """A copy of each part's value, in the order of `parts`."""
    return [part.numpy() for part in parts(variables)]
