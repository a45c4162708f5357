"""All that a step of training changes, put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from mpt.variables import changed_by_a_step, parts


@contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Put every variable of the model and its optimizer back to its value of before.

    Each replica gets back its own values: BatchNormalization's statistics differ between them.
    """
    variables = parts(changed_by_a_step(model))
    kept = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
