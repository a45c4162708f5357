"""All that a step of training changes, put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np


@contextmanager
def restored(model: keras.Model, optimizer: keras.Optimizer) -> Iterator[None]:
    """Put every variable of the model and the optimizer back to its value of before."""
    variables = {
        id(v): v for v in [*model.variables, *model.metrics_variables, *optimizer.variables]
    }
    kept = [(v, np.asarray(v.numpy())) for v in variables.values()]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
