"""The device loop: many steps of `model.train_step` a call, no step waiting for the host.

What a step measures is written on the device into a ring of rows, which the host reads once a log
interval. It is `model.train_step` that runs, so Keras's semantics, and a user's own step, hold.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt.variables import parts

Batch = Any
Step = Callable[[Batch], None]


class TrainLoop:
    """Runs training steps on the device and keeps a row of measurements for each.

    Args:
        step: one training step on a batch, called in cross-replica context.
        measure: the step's measurements as float32 scalars, called after it; in a fixed order.
        iterator: an endless iterator of batches; it lives as long as the loop.
        rows: how many steps the ring holds: the longest distance between two drains.
        timed: measure how long each step waits for its batch. TensorFlow refuses to read a clock
            where only deterministic operations are allowed.
    """

    def __init__(
        self,
        step: Step,
        measure: Callable[[], dict[str, tf.Tensor]],
        iterator: Iterator[Batch],
        rows: int,
        *,
        timed: bool = True,
    ):
        self._step = step
        self._measure = measure
        self._iterator = iterator
        self._rows = rows
        self._timed = timed
        self._columns = [*measure(), *(["data_wait"] if timed else [])]
        self._ring = tf.Variable(tf.zeros((rows, len(self._columns))), trainable=False, name="ring")
        self._position = tf.Variable(0, dtype=tf.int64, trainable=False, name="ring_position")
        self._halted = _halted()
        self._awaited = _awaited()
        self._halting = threading.Event()
        self._drained = 0
        self._run_before = 0
        # Not converted by AutoGraph, which costs a third of a second: its loop is written out.
        self._steps = tf.function(self._run_steps, reduce_retracing=True, autograph=False)

    def run(self, count: int) -> int:
        """Run `count` steps. Returns when they are queued, which on a CPU is when they are done.

        One trace serves every `count`, so results do not depend on how steps are grouped.

        Returns:
            The steps run: fewer than `count` only after `halt`.
        """
        self._steps(self._iterator, tf.constant(count, tf.int64))
        if self._halting.is_set():
            count = int(self._position.numpy()) - self._run_before
        self._run_before += count
        return count

    def halt(self) -> None:
        """End the present call, if there is one, after its present step. For another thread.

        A call after this runs one step: what was begun for it, as by a callback, is made use of.
        """
        self._halting.set()
        self._halted.assign(True)

    def awaited(self) -> int | None:
        """The batch that a step is waiting for, counted from 1; None: no step waits. For a thread.

        Steps do not overlap, so at most one waits.
        """
        return int(self._awaited.numpy()) or None

    def restart(self, iterator: Iterator[Batch]) -> None:
        """Go on with other data; what was not drained is forgotten."""
        self._iterator = iterator
        self._drained = self._run_before = int(self._position.numpy())

    def trace(self) -> None:
        """Trace the step without running it: what it cannot do shows now."""
        self._steps.get_concrete_function(self._iterator, tf.constant(1, tf.int64))

    def wait(self) -> None:
        """Wait until the device has done all steps that are queued."""
        self._position.numpy()

    def rehearse(self, count: int, iterator: Iterator[Batch]) -> float:
        """Run `count` steps on other data and forget their rows; their time, s.

        The caller puts back what the steps changed.
        """
        start = time.perf_counter()
        self._steps(iterator, tf.constant(count, tf.int64))
        self.wait()
        seconds = time.perf_counter() - start
        self._position.assign(self._run_before)
        return seconds

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what a row holds."""
        return tuple(self._columns)

    def drain(self) -> dict[str, np.ndarray]:
        """The rows written since the last drain: name -> float32 array of shape (steps,), a copy.

        Waits for the device. The names are those of `measure` and, if timed, `data_wait`, the
        seconds that the step waited for its batch.
        """
        position = int(self._position.numpy())
        count = position - self._drained
        assert count <= self._rows, "the ring was overwritten before it was drained"
        ring = self._ring.numpy()
        index = np.arange(self._drained, position) % self._rows
        self._drained = position
        return dict(zip(self._columns, np.ascontiguousarray(ring[index].T), strict=True))

    def _run_steps(self, iterator: Iterator[Batch], count: tf.Tensor) -> None:
        def going_on(done: tf.Tensor) -> tf.Tensor:
            return (done < count) & ((done < 1) | ~self._halted.read_value())

        def one_step(done: tf.Tensor) -> tf.Tensor:
            batch, waited = self._next_batch(iterator)
            self._step(batch)
            self._write({**self._measure(), **waited})
            return done + 1

        # One step at a time: overlapping steps only compete for memory and cores.
        tf.while_loop(going_on, one_step, [tf.zeros_like(count)], parallel_iterations=1)

    def _next_batch(self, iterator: Iterator[Batch]) -> tuple[Batch, dict[str, tf.Tensor]]:
        """The next batch, and `data_wait`, the seconds that it took to come."""
        number = self._position.read_value() + 1
        if not self._timed:
            return _awaited_batch(iterator, self._awaited, number), {}
        asked = tf.timestamp()
        with tf.control_dependencies([asked]):
            batch = _awaited_batch(iterator, self._awaited, number)
        with tf.control_dependencies(_tensors(batch)):
            received = tf.timestamp()
        return batch, {"data_wait": tf.cast(received - asked, tf.float32)}

    def _write(self, measured: dict[str, tf.Tensor]) -> None:
        position = self._position.read_value()
        row = tf.stack([measured[name] for name in self._columns])
        self._ring.scatter_nd_update([[tf.math.floormod(position, self._rows)]], [row])
        self._position.assign(position + 1)


class EvaluationLoop:
    """Runs `model.test_step` over a whole pass of the validation data, on the device.

    Args:
        model: compiled; its metrics are reset before a pass and put back after it.
        strategy: the strategy under which the model was made.
        iterator: endless repetitions of the same pass of `batches` batches.
        ended: asked every `chunk` batches whether to cut the pass short; None: only `halt` does.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        iterator: Iterator[Batch],
        batches: int,
        ended: Callable[[], bool] | None = None,
        chunk: int = 50,
    ):
        self._model = model
        self._strategy = strategy
        self._iterator = iterator
        self._batches = batches
        self._ended = ended
        self._chunk = batches if ended is None else chunk
        self._awaited = _awaited()
        self._halted = _halted()
        self._steps = tf.function(self._run_steps, reduce_retracing=True)

    def awaited(self) -> int | None:
        """As the training loop's: the batch that the present pass is waiting for."""
        return int(self._awaited.numpy()) or None

    def run(self) -> dict[str, float] | None:
        """Evaluate once: metric name -> value; None where `halt` cut it short.

        The training metrics are left as they were.
        """
        kept = [(v, v.numpy()) for v in parts(self._model.metrics_variables)]
        self._model.reset_metrics()
        whole = self._pass()
        result = metric_values(self._model) if whole else None
        for variable, value in kept:
            variable.assign(value)
        return result

    def _pass(self) -> bool:
        """Take all batches; whether nothing cut it short."""
        done = 0
        while done < self._batches:
            count = min(self._chunk, self._batches - done)
            done += count
            if int(self._steps(self._iterator, tf.constant(count, tf.int64)).numpy()) < count:
                return False
            if self._ended is not None and done < self._batches and self._ended():
                return False
        return True

    def halt(self) -> None:
        """End the present pass, if there is one, after its present batch. For another thread.

        A pass after this ends before it begins.
        """
        self._halted.assign(True)

    def _run_steps(self, iterator: Iterator[Batch], count: tf.Tensor) -> tf.Tensor:
        done = tf.zeros_like(count)
        while done < count and not self._halted.read_value():
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            done += 1
            batch = _awaited_batch(iterator, self._awaited, done)
            self._strategy.run(self._step, args=(batch,))
        return done

    @tf.autograph.experimental.do_not_convert
    def _step(self, batch: Batch) -> None:
        if self._strategy.num_replicas_in_sync == 1:
            self._model.test_step(batch)
            return
        # The last batch may have fewer rows than there are replicas: a mean of none is no number.
        rows = tf.shape(tf.nest.flatten(batch, expand_composites=True)[0])[0]

        def step() -> int:
            self._model.test_step(batch)
            return 0

        tf.cond(rows > 0, step, lambda: 0)


def metric_values(model: keras.Model) -> dict[str, float]:
    """The metrics' present values, by name, as Python floats; metrics of dicts are flattened."""
    values: dict[str, float] = {}
    for name, value in model.get_metrics_result().items():
        if isinstance(value, dict):
            values.update({f"{name}_{key}": float(np.asarray(v)) for key, v in value.items()})
        else:
            values[name] = float(np.asarray(value))
    return values


def _halted() -> tf.Variable:
    """Whether to end early, in the host's memory: it is written while the device is at work."""
    with tf.device("CPU:0"):
        return tf.Variable(False, trainable=False, name="halted")


def _awaited() -> tf.Variable:
    """The number of the batch that is waited for, in the host's memory: another thread reads it."""
    with tf.device("CPU:0"):
        return tf.Variable(0, dtype=tf.int64, trainable=False, name="awaited")


@tf.autograph.experimental.do_not_convert
def _awaited_batch(iterator: Iterator[Batch], awaited: tf.Variable, number: tf.Tensor) -> Batch:
    """The next batch; until it is there, `awaited` has its number."""
    with tf.control_dependencies([awaited.assign(number, read_value=False)]):
        batch = next(iterator)
    with tf.control_dependencies(_tensors(batch)):
        awaited.assign(0, read_value=False)
    return batch


def _tensors(batch: Batch) -> list[tf.Tensor]:
    """The tensors of a batch, those of each replica where it is distributed."""
    leaves = tf.nest.flatten(batch)
    return [part for leaf in leaves for part in getattr(leaf, "values", [leaf])]
