"""The values behind Keras's variables, each replica's own."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def components(variables: Sequence[keras.Variable]) -> list[Sequence[tf.Variable]]:
    """TensorFlow's variables behind each of Keras's: one a replica where it is distributed."""
    values = [variable.value for variable in variables]
    return [getattr(value, "values", (value,)) for value in values]


def parts(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    """As `components`, one list of all."""
    return [part for own in components(variables) for part in own]


def changed_by_a_step(model: keras.Model) -> list[keras.Variable]:
    """Every variable that training changes, each once: weights, seeds, metrics, the optimizer's."""
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """A copy of each part's value, in the order of `parts`."""
    return [part.numpy() for part in parts(variables)]
