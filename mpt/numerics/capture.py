"""Keeps the batch and the state of the first step that calls for a diagnosis.

The host learns of such a step when it next drains the ring, many steps later, when the weights
have moved on. So what a replay needs is copied at that very step, into variables in the host's
memory; every other step pays for a few scalar operations only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt.variables import components
from mpt.workers import ALONE, Team

Step = Callable[[Any], None]


@dataclass(frozen=True)
class Captured:
    """One step, as it was before it was taken.

    Attributes:
        step: its number, counted from 1.
        scale: loss scale with which it was taken.
        loss: its unscaled loss, as it was in training.
        applied: the gradients were finite, so `state` already holds this step's update.
        batch: one global batch, in the structure that `train_step` takes; the shares of several
            replicas are joined along the first axis.
        state: values of `model.variables`, in that order, those of the first replica.
    """

    step: int
    scale: float
    loss: float
    applied: bool
    batch: Any
    state: list[np.ndarray]


class Capture:
    """Copies the first step worth a diagnosis, until `rearm`.

    Worth one is a step whose loss is not finite; one that was skipped for its gradients although
    the scale can do nothing about it, being constant or at its floor; and the last of too many
    skipped steps in a row. A skip that a dynamic scale answers by shrinking is not.

    Args:
        model: built, compiled with a built `mpt.loss_scale.LossScaleOptimizer`.
        strategy: the strategy in whose scope it was made.
        batch_spec: `element_spec` of the undistributed training data.
        max_consecutive_skips: as many skipped steps in a row are too many.
        team: whose members' rows make up a batch.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        batch_spec: Any,
        max_consecutive_skips: int,
        team: Team = ALONE,
    ):
        self._model = model
        self._optimizer = model.optimizer
        self._strategy = strategy
        self._batch_spec = batch_spec
        self._most_skips = max_consecutive_skips
        self._team = team
        specs = tf.nest.flatten(batch_spec, expand_composites=True)
        (own,) = components([self._optimizer.dynamic_scale])  # one for each of this worker's
        self._batches = [[_kept(spec.dtype) for spec in specs] for _ in own]
        self._state = [_kept(part[0].dtype) for part in components(model.variables)]
        self._step = _kept(tf.int64)
        self._scale = _kept(tf.float32)
        self._loss = _kept(tf.float32)
        self._applied = _kept(tf.bool)
        self._armed = tf.Variable(True, trainable=False, name="capture_armed")

    def around(self, step: Step) -> Step:
        """`step`, a guarded training step, which leaves its batch and state here if need be.

        Like `step`, it is called in cross-replica context, inside a `tf.function`.
        """

        @tf.autograph.experimental.do_not_convert
        def run(batch: Any) -> None:
            scale = tf.identity(tf.convert_to_tensor(self._optimizer.dynamic_scale.value))
            step(batch)
            worth = self._worth_a_diagnosis(scale) & self._armed.read_value()
            tf.cond(worth, lambda: self._copy(batch, scale), lambda: 0)

        return run

    def telemetry(self) -> dict[str, tf.Tensor]:
        """A column of the ring: `captured`, 1 from the step that was captured to `rearm`."""
        return {"captured": tf.cast(~self._armed.read_value(), tf.float32)}

    def read(self) -> Captured | None:
        """The captured step, or None. Waits for the device, and for the team."""
        if self._armed.numpy():
            return None
        if self._team.size > 1 and any(kept.dtype == tf.string for kept in self._batches[0]):
            return None  # texts are not sent to other members
        shares = [
            tf.nest.pack_sequence_as(self._batch_spec, leaves, expand_composites=True)
            for leaves in self._leaves()
        ]
        return Captured(
            step=int(self._step.numpy()),
            scale=float(self._scale.numpy()),
            loss=float(self._loss.numpy()),
            applied=bool(self._applied.numpy()),
            batch=shares[0] if len(shares) == 1 else tf.nest.map_structure(_joined, *shares),
            state=self._states(),
        )

    def _leaves(self) -> list[list[tf.Tensor]]:
        """The tensors of each replica's share, at all members."""
        own = [[kept.read_value() for kept in share] for share in self._batches]
        if self._team.size == 1:
            return own
        shares = self._team.exchange([[leaf.numpy() for leaf in share] for share in own])
        return [[tf.constant(leaf) for leaf in share] for member in shares for share in member]

    def _states(self) -> list[np.ndarray]:
        """The values of the model's variables, those of the first replica of all members."""
        own = [np.asarray(kept.numpy()) for kept in self._state]
        trained = {id(variable) for variable in self._model.trainable_variables}
        others = [i for i, v in enumerate(self._model.variables) if id(v) not in trained]
        chief = self._team.exchange([own[i] for i in others])[0]
        for i, value in zip(others, chief, strict=True):
            own[i] = value
        return own

    def state(self) -> dict[str, Any] | None:
        """The captured step, as a checkpoint takes it.

        None: there is none, it has texts, or other members have a part of it.
        """
        if self._armed.numpy() or self._team.size > 1:
            return None
        values = [np.asarray(variable.numpy()) for variable in self._variables()]
        return None if any(value.dtype.hasobject for value in values) else {"values": values}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Hold what `state` holds: a step, or none.

        Raises:
            ValueError: it is the state of another model or other data.
        """
        if state is None:
            self.rearm()
            return
        pairs = list(zip(self._variables(), state["values"], strict=True))
        for variable, value in pairs:
            if value.dtype != variable.dtype.as_numpy_dtype:
                raise ValueError(f"a captured {value.dtype.name} is no {variable.dtype.name}")
        for variable, value in pairs:
            variable.assign(value)
        self._armed.assign(False)

    def _variables(self) -> list[tf.Variable]:
        """All that is written when a step is captured."""
        batches = [kept for share in self._batches for kept in share]
        return [*batches, *self._state, self._step, self._scale, self._loss, self._applied]

    def rearm(self) -> None:
        """Forget what was captured, free its memory, and wait for the next such step."""
        for kept in [*self._state, *(kept for share in self._batches for kept in share)]:
            kept.assign(_nothing(kept.dtype))
        self._armed.assign(True)

    def _worth_a_diagnosis(self, scale: tf.Tensor) -> tf.Tensor:
        """Whether the step just taken, with `scale`, is (bool scalar)."""
        optimizer = self._optimizer
        skipped = ~tf.convert_to_tensor(optimizer.finite.value)
        loss = tf.convert_to_tensor(optimizer.batch_loss.value)
        skips = tf.convert_to_tensor(optimizer.consecutive_skips.value)
        too_many = skips >= self._most_skips
        if optimizer.mode == "dynamic":
            helpless = (scale <= optimizer.min_scale) | too_many
        else:
            helpless = tf.constant(True)
        return ~tf.math.is_finite(loss) | (skipped & helpless)

    def _copy(self, batch: Any, scale: tf.Tensor) -> int:
        for i, share in enumerate(self._batches):
            own = tf.nest.map_structure(lambda leaf, i=i: self._local(leaf)[i], batch)
            leaves = tf.nest.flatten(own, expand_composites=True)
            for kept, leaf in zip(share, leaves, strict=True):
                kept.assign(leaf)
        parts = components(self._model.variables)
        for kept, part in zip(self._state, parts, strict=True):
            kept.assign(part[0].read_value())
        self._step.assign(tf.convert_to_tensor(self._optimizer.attempted_steps.value))
        self._scale.assign(scale)
        self._loss.assign(tf.convert_to_tensor(self._optimizer.batch_loss.value))
        self._applied.assign(tf.convert_to_tensor(self._optimizer.finite.value))
        self._armed.assign(False)
        return 0

    def _local(self, value: Any) -> tuple[Any, ...]:
        return self._strategy.experimental_local_results(value)


def _kept(dtype: tf.DType) -> tf.Variable:
    """A variable of any shape in the host's memory: a GPU's is the training's."""
    with tf.device("CPU:0"):
        return tf.Variable(_nothing(dtype), shape=tf.TensorShape(None), trainable=False)


def _nothing(dtype: tf.DType) -> tf.Tensor:
    return tf.constant("" if dtype == tf.string else False if dtype == tf.bool else 0, dtype)


def _joined(*shares: Any) -> Any:
    return tf.concat(shares, axis=0)
