"""The host's side of training: groups steps into calls, and acts at their edges."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import keras

from mpt.loop import EvaluationLoop, TrainLoop, metric_values
from mpt.stopping import Best, Cause, DivergenceRules, Reason
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.throughput import Throughput
from mpt.telemetry.window import Window
from mpt.tuning import StepsPerExecution

Values = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    eval_every: int

    def next_edge(self, step: int) -> int:
        """The first step after `step` at which the host has something to do."""
        periods = (self.log_every, self.eval_every, self.steps_per_epoch)
        return min(self.total_steps, *((step // period + 1) * period for period in periods))


@dataclass
class Outcome:
    """How training ended.

    Attributes:
        status: completed, stopped_early, diverged or interrupted.
        final: last value of each `train/*` and `validation/*` tag.
        seconds: wall time by activity: train, evaluate, diagnose.
    """

    status: str = "completed"
    reason: Reason | None = None
    steps: int = 0
    final: Values = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "diagnose": 0.0}
    )


@dataclass
class Training:
    """One training run over ready-made parts.

    Attributes:
        synchronous: a call returns when its steps are done (a CPU), so each call can be timed;
            otherwise only drained windows are.
        record: told, at a step, of the window drained there and of its `validation/*` values;
            either may be missing.
        learning_rate: reads the optimizer's present learning rate.
        diagnose: given each drained window, says what broke a step of it, if any broke.
    """

    model: keras.Model
    loop: TrainLoop
    evaluation: EvaluationLoop | None
    schedule: Schedule
    steps_per_execution: StepsPerExecution
    rules: DivergenceRules
    best: Best
    throughput: Throughput
    history: LossScaleHistory
    batch_size: int
    synchronous: bool
    record: Callable[[int, Window | None, Values], None]
    learning_rate: Callable[[], float]
    diagnose: Callable[[Window], Cause | None]
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    _drained_at: int = 0
    _window_seconds: float = 0.0
    _step_seconds: float = 0.0
    _finalized: bool = False

    def run(self) -> Outcome:
        """Train to the last step, or until a rule, a callback or a signal ends it."""
        hooks = _callback_list(self.callbacks, self.model, self.schedule)
        with _interrupts() as interrupted:
            hooks.on_train_begin()
            while self.outcome.steps < self.schedule.total_steps:
                with self._accounting():
                    self._call(hooks)
                    reason = self._edge(hooks)
                if reason or interrupted or self.model.stop_training:
                    self._end(reason, interrupted, hooks)
                    break
        self._finalize()
        hooks.on_train_end()
        return self.outcome

    @contextmanager
    def _accounting(self) -> Iterator[None]:
        """Count what the host does between steps, telemetry and callbacks too, as training."""
        start, other = time.perf_counter(), self._other_seconds()
        self._step_seconds = 0.0
        yield
        spent = time.perf_counter() - start - (self._other_seconds() - other)
        self.outcome.seconds["train"] += spent
        between = spent - self._step_seconds
        self._window_seconds += between
        if self.synchronous:
            self.throughput.add_between(self.outcome.steps, between)

    def _other_seconds(self) -> float:
        """Time at the edges of steps that is not training's."""
        return self.outcome.seconds["evaluate"] + self.outcome.seconds["diagnose"]

    def _call(self, hooks: keras.callbacks.CallbackList) -> None:
        """One call of the device: steps up to the next edge."""
        step, schedule = self.outcome.steps, self.schedule
        batch = step % schedule.steps_per_epoch
        if batch == 0:
            self.model.reset_metrics()
            hooks.on_epoch_begin(step // schedule.steps_per_epoch)
        tuning = self.steps_per_execution.measuring
        count = min(self.steps_per_execution.value, schedule.next_edge(step) - step)
        hooks.on_train_batch_begin(batch)
        start = time.perf_counter()
        self.loop.run(count)
        if tuning:
            self.loop.wait()
        seconds = time.perf_counter() - start
        self.outcome.steps = step = step + count
        self._step_seconds += seconds
        self._window_seconds += seconds
        if self.synchronous:
            self.throughput.add(step, count, seconds)
        if tuning:
            self.steps_per_execution.add(step, count, seconds)
            self.throughput.extend_warmup(self.steps_per_execution.settled_at)
        # A callback of batches wants numbers, which cost a synchronization; others do without.
        logs = metric_values(self.model) if _wants_batches(self.callbacks) else {}
        hooks.on_train_batch_end(batch + count - 1, logs)

    def _edge(self, hooks: keras.callbacks.CallbackList) -> Reason | None:
        """What is due at the present step; the reason to stop, or None."""
        step, schedule = self.outcome.steps, self.schedule
        ended = step == schedule.total_steps
        evaluating = step % schedule.eval_every == 0 or ended
        # A monitored train/* tag is that of a window, which must end where it is compared.
        compared = evaluating and self.best.tag.startswith("train/")
        logging = step % schedule.log_every == 0 or ended or compared
        window = self._drain() if logging else None
        reason = self._check(window) if window else None
        validation: Values = {}
        if ended:
            self._finalize()
        if reason is None and evaluating:
            validation = self._evaluate(hooks)
            reason = self._compare(validation)
        if window or validation:
            self.record(step, window, validation)
        if step % schedule.steps_per_epoch == 0 or ended:
            # To read metrics waits for the device: only where a callback will look at them.
            metrics = metric_values(self.model) if self.callbacks else {}
            logs = {**metrics, **self._validation_logs()}
            hooks.on_epoch_end((step - 1) // schedule.steps_per_epoch, logs)
        return reason

    def _drain(self) -> Window:
        """The window of the steps since the last drain. Waits for the device."""
        start = time.perf_counter()
        rows = self.loop.drain()
        waited = time.perf_counter() - start
        self._step_seconds += waited
        step = self.outcome.steps
        steps = step - self._drained_at
        window = Window(
            step=step,
            rows=rows,
            seconds=self._window_seconds + waited,
            examples=steps * self.batch_size,
            metrics=metric_values(self.model),
            learning_rate=self.learning_rate(),
            complete=step % self.schedule.log_every == 0,
        )
        if not self.synchronous:
            self.throughput.add(step, steps, window.seconds)
        self.throughput.add_wait(window)
        self.history.add(window)
        self._drained_at, self._window_seconds = step, 0.0
        self.outcome.final.update(window.train_values)
        return window

    def _check(self, window: Window) -> Reason | None:
        """What broke a step of the window, if any broke, and whether that is reason to stop."""
        start = time.perf_counter()
        cause = self.diagnose(window)
        if cause is not None:
            self.outcome.seconds["diagnose"] += time.perf_counter() - start
        return self.rules.check(window, cause)

    def _evaluate(self, hooks: keras.callbacks.CallbackList) -> Values:
        """One pass over the validation data: `validation/*` values; none without such data."""
        if self.evaluation is None:
            return {}
        self.loop.wait()
        hooks.on_test_begin()
        start = time.perf_counter()
        result = self.evaluation.run()
        self.outcome.seconds["evaluate"] += time.perf_counter() - start
        hooks.on_test_end(result)
        values = {f"validation/{name}": value for name, value in result.items()}
        self.outcome.final.update(values)
        return values

    def _compare(self, validation: Values) -> Reason | None:
        """Hold an evaluation against the best one; the reason to stop early, or None."""
        train = self.best.tag.startswith("train/")
        values = self.outcome.final if train else validation
        return self.best.update(self.outcome.steps, values.get(self.best.tag))

    def _finalize(self) -> None:
        """Put the weights' moving average, if there is one, in their place, once."""
        if not self._finalized:
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self._finalized = True

    def _validation_logs(self) -> Values:
        prefix = "validation/"
        final = self.outcome.final
        return {f"val_{k[len(prefix) :]}": v for k, v in final.items() if k.startswith(prefix)}

    def _end(
        self,
        reason: Reason | None,
        interrupted: list[int],
        hooks: keras.callbacks.CallbackList,
    ) -> None:
        """Name why training ends before its last step."""
        step = self.outcome.steps
        if step > self._drained_at:
            window = self._drain()
            self.record(step, window, {})
            reason = self._check(window) or reason
        if reason is not None:
            early = reason.rule == "early_stopping"
            self.outcome.status = "stopped_early" if early else "diverged"
        elif interrupted:
            name = signal.Signals(interrupted[0]).name
            self.outcome.status = "interrupted"
            reason = Reason("signal", step, f"{name} was received")
        elif step < self.schedule.total_steps:
            self.outcome.status = "stopped_early"
            reason = Reason("callback", step, "a Keras callback set model.stop_training")
        self.outcome.reason = reason
        averaged = self.model.optimizer.inner_optimizer.use_ema and not self._finalized
        if averaged and self.outcome.status == "stopped_early":
            self._finalize()
            self.record(step, None, self._evaluate(hooks))


def epochs(steps: int, steps_per_epoch: int) -> int:
    """Epochs that were at least begun."""
    return math.ceil(steps / steps_per_epoch)


def _callback_list(
    callbacks: list[keras.callbacks.Callback], model: keras.Model, schedule: Schedule
) -> keras.callbacks.CallbackList:
    model.stop_training = False
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=False,
        model=model,
        epochs=epochs(schedule.total_steps, schedule.steps_per_epoch),
        steps=schedule.steps_per_epoch,
        verbose=0,
    )


def _wants_batches(callbacks: list[keras.callbacks.Callback]) -> bool:
    base = keras.callbacks.Callback
    return any(
        type(callback).on_train_batch_end is not base.on_train_batch_end
        or type(callback).on_batch_end is not base.on_batch_end
        for callback in callbacks
    )


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Signals received: the first ends training after the running call, a second one at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    previous = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
