"""All that a step of training changes, put back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf


@contextmanager
def restored(model: keras.Model, optimizer: keras.Optimizer) -> Iterator[None]:
    """Put every variable of the model and the optimizer back to its value of before.

    Each replica gets back its own values: BatchNormalization's statistics differ between them.
    """
    variables = {
        id(v): v for v in [*model.variables, *model.metrics_variables, *optimizer.variables]
    }
    parts = [part for own in components(list(variables.values())) for part in own]
    kept = [part.numpy() for part in parts]
    try:
        yield
    finally:
        for part, value in zip(parts, kept, strict=True):
            part.assign(value)


def components(variables: Sequence[keras.Variable]) -> list[Sequence[tf.Variable]]:
    """TensorFlow's variables behind each of Keras's: one a replica where it is distributed."""
    values = [variable.value for variable in variables]
    return [getattr(value, "values", (value,)) for value in values]
