"""The moving average of the weights that an optimizer keeps, in the weights' place for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from mpt.variables import parts


@contextmanager
def averaged(model: keras.Model) -> Iterator[None]:
    """Within it, `model` has the average of its weights, where its optimizer keeps one.

    The two change places, and back at the end, so that not one bit of either is lost and no third
    copy is made; a checkpoint may not be written within. Before the first update there is no
    average. What is not trained, as the statistics of a BatchNormalization, has none: it stays.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    every = optimizer.gradient_accumulation_steps or 1
    if not optimizer.use_ema or parts([optimizer._iterations])[0].numpy() < every:
        yield
        return
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    # float8's scales have none.
    kept = [(weight, average) for weight, average in pairs if average is not None]
    weights, averages = parts([weight for weight, _ in kept]), parts([each for _, each in kept])
    _swap(weights, averages)
    try:
        yield
    finally:
        _swap(weights, averages)


def _swap(some: list[tf.Variable], others: list[tf.Variable]) -> None:
    for one, other in zip(some, others, strict=True):
        kept = tf.identity(one)  # a value read may be the variable's own memory
        one.assign(other)
        other.assign(kept)
