"""A training step after which a skipped batch has left no trace in the model."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mpt.loss_scale.optimizer import LossScaleOptimizer


def guarded(
    model: keras.Model, step: Callable[[Any], Any], strategy: tf.distribute.Strategy
) -> Callable[[Any], None]:
    """A training step after which a skipped batch has left no trace in the model.

    Args:
        model: built and compiled with a built `LossScaleOptimizer`, its metrics built too.
        step: `model.train_step`, or a `tf.function` of it.
        strategy: the strategy in whose scope the model was made.

    Returns:
        A function of one batch, to be called inside a `tf.function`, outside the replicas. It runs
        `strategy.run(step, args=(batch,))` and, where the optimizer skipped, puts back every
        non-trainable value: BatchNormalization statistics, seeds, metrics. What `train_step`
        returned is dropped: its running means are from before that.
    """
    optimizer = model.optimizer
    if not isinstance(optimizer, LossScaleOptimizer) or not optimizer.built:
        raise ValueError("guarded() needs a model compiled with a built LossScaleOptimizer.")

    @tf.autograph.experimental.do_not_convert
    def run(batch: Any) -> None:
        state = _state(model)
        # On every replica, for each has its own statistics.
        parts = [p for v in state for p in strategy.experimental_local_results(v.value)]
        before = [part.read_value() for part in parts]
        strategy.run(step, args=(batch,))
        if len(_state(model)) != len(state):
            raise ValueError("Call the model, and build its metrics, before guarded() is traced.")

        def put_back() -> int:
            for part, value in zip(parts, before, strict=True):
                part.assign(value)
            return 0

        tf.cond(tf.convert_to_tensor(optimizer.finite.value), lambda: 0, put_back)

    return run


def _state(model: keras.Model) -> list[keras.Variable]:
    """The model's variables that a step changes but the optimizer does not."""
    trainable = {id(variable) for variable in model.trainable_variables}
    found = {id(v): v for v in (*model.variables, *model.metrics_variables)}
    return [variable for key, variable in found.items() if key not in trainable]
