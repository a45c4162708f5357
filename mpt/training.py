"""The host's side of training: groups steps into calls, and acts at their edges."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from mpt import checkpointing, replicas
from mpt.agreement import Agreement
from mpt.callback_state import Callbacks
from mpt.checkpointing import Checkpointing, Part
from mpt.hooks import Hooks
from mpt.loop import EvaluationLoop, TrainLoop, metric_values
from mpt.progress import Outcome, Schedule, Standing, Values
from mpt.resumable import RandomNumbers, Variables
from mpt.rollback import last_good
from mpt.stopping import Best, Cause, DivergenceRules, Reason
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.throughput import Throughput
from mpt.telemetry.window import OpenWindow, Window
from mpt.tuning import StepsPerExecution
from mpt.workers import ALONE, Team

# What an edge changes before it evaluates.
CHANGED = ("callbacks", "rules", "loss_scale", "throughput", "watch", "training")


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
        batches_from: an iterator over the training data from a batch on, counted from 0; told of
            the batches that it has to read again up to there.
        checkpoints: writes what the run can go on from; None: it writes none.
        parts: what a checkpoint holds besides, by name.
        max_rollbacks: how often a run that diverges goes back to its last good checkpoint and
            leaves out the batches since; 0: it stops.
        tell: told when the run goes back.
        after_first: done once, behind the first call or before the row of a run with no step left,
            for what need not be known before it begins; its time is not training's.
        interrupted: whether it was asked to end early.
        team: who trains together with this process, in lock step.
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
    batches_from: Callable[[int, Callable[[int | None], None]], Iterator[Any]]
    interrupted: Agreement
    team: Team = ALONE
    checkpoints: Checkpointing | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    max_rollbacks: int = 0
    tell: Callable[[str], None] = print
    after_first: Callable[[], None] | None = None
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    _window: OpenWindow = field(default_factory=OpenWindow)
    _step_seconds: float = 0.0
    _beside_seconds: float = 0.0
    _finalized: bool = False
    _left_out: int = 0
    _saved_at: int | None = None
    _stopped: Reason | None = None
    _read_again: int | None = None
    _edge_due: bool = False  # at the present step, for a signal cut it short

    def run(self, resumed: dict[str, Any] | None = None) -> Outcome:
        """Train to the last step, or until a rule, a callback or a signal ends it.

        Args:
            resumed: the state in the checkpoint that the run goes on from; emptied.

        Raises:
            DoesNotFit: that state is not one of this run; nothing was trained.
        """
        hooks = Hooks(self.callbacks, self.model, self.schedule)
        self._variables = Variables(self.model, self.team)
        self._all_parts: dict[str, Part] = {  # those that write to the run's folder come last
            "variables": self._variables,
            "callbacks": Callbacks(hooks.all),
            "random": RandomNumbers(),
            "rules": self.rules,
            "best": self.best,
            "loss_scale": self.history,
            "throughput": self.throughput,
            "steps_per_execution": self.steps_per_execution,
            "training": self,
            **self.parts,
        }
        hooks.begin_training()
        if resumed is not None:
            self._go_on_from(resumed)
        elif self.max_rollbacks:
            self._save()  # there must be one to go back to
        if self._stopped is not None:  # by a process that was killed before it could say so
            self._end(self._stopped, hooks)
        while self._stopped is None and self._has_more():
            reason = None
            if not self.interrupted:
                with self._accounting():
                    if not self._edge_due:
                        self._call(hooks)
                    reason = self._edge(hooks)
            if reason and self._roll_back(reason):
                continue
            if reason or (self.interrupted and self._has_more()):
                self._end(reason, hooks)
                break
        self._finalize()
        replicas.average_statistics(self.model, self.team)
        hooks.end_training()
        return self.outcome

    def _has_more(self) -> bool:
        return self._edge_due or self.outcome.steps < self.schedule.total_steps

    def awaited(self) -> tuple[str, int] | None:
        """The batch that is waited for at this moment, by whom; for another thread."""
        if self._read_again is not None:
            return "training", self._read_again
        for name, loop in (("training", self.loop), ("validation", self.evaluation)):
            if loop is not None and (number := loop.awaited()) is not None:
                return name, number
        return None

    def state(self) -> dict[str, Any]:
        """Where training stands, and what it has measured since the last logged step."""
        self._collect()
        return Standing.of(
            self.outcome, self._window, self._left_out, self._stopped, edge_due=self._edge_due
        ).state()

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` says. The data's place is `batches_from`'s to take.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        kept, outcome = Standing.kept(state, self.loop.columns), self.outcome
        outcome.steps, outcome.final, outcome.seconds = kept.step, kept.final, kept.seconds
        outcome.rollbacks = kept.rollbacks
        self._left_out = kept.left_out
        self._window = OpenWindow(kept.drained_at, kept.pending, kept.window_seconds)
        self._stopped, self._edge_due, self._finalized = kept.stopped, kept.edge_due, False

    def _go_on_from(self, state: dict[str, Any]) -> None:
        checkpointing.restore(self._all_parts, state)
        state.clear()  # it is as large as the model and its slots
        step = self._saved_at = self.outcome.steps
        self.loop.restart(self.batches_from(step + self._left_out, self._read))
        self.throughput.warm_up_again(step)

    def _read(self, batch: int | None) -> None:
        self._read_again = batch

    def _save(self, *, best: bool = False) -> None:
        """Write a checkpoint of the present step, whose edge is behind it."""
        if self.checkpoints is None or self._saved_at == self.outcome.steps:
            return
        self._collect()
        with self.outcome.timed("save"):
            healthy = self.rules.healthy(self._window.rows)
            self.checkpoints.save(self.outcome.steps, self._all_parts, healthy=healthy, best=best)
            self._saved_at = self.outcome.steps

    def _roll_back(self, reason: Reason) -> bool:
        """Go back to the last good checkpoint and leave out the batches since, if that may help."""
        outcome = self.outcome
        spent = len(outcome.rollbacks) >= self.max_rollbacks
        if reason.is_early or self.checkpoints is None or spent:
            return False
        if (found := last_good(self.checkpoints, self.team, self.tell)) is None:
            return False
        position, seconds = outcome.steps + self._left_out, dict(outcome.seconds)
        since = outcome.steps - found.step
        entry = {"from_step": outcome.steps, "to_step": found.step, "rule": reason.rule}
        earlier = [*outcome.rollbacks, entry]
        # First, so that a kill leaves nothing of the path that was left.
        self.checkpoints.forget_after(found.step)
        checkpointing.restore(self._all_parts, found.state)
        self.model.stop_training = False
        self._saved_at = found.step
        outcome.seconds, outcome.rollbacks = seconds, earlier
        self._left_out = position - found.step
        self.loop.restart(self.batches_from(position, self._read))
        self.tell(
            f"{reason.message}\n  The run goes back to step {found.step} and leaves out the "
            f"{since} batches since ({len(earlier)} of trainer.max_rollbacks={self.max_rollbacks})."
        )
        return True

    @contextmanager
    def _accounting(self) -> Iterator[None]:
        """Count what the host does between steps, telemetry and callbacks too, as training."""
        start, other = time.perf_counter(), self.outcome.beside + self._beside_seconds
        self._step_seconds = 0.0
        yield
        other = self.outcome.beside + self._beside_seconds - other
        spent = time.perf_counter() - start - other
        self.outcome.seconds["train"] += spent
        between = spent - self._step_seconds
        self._window.seconds += between
        if self.synchronous:
            self.throughput.add_between(self.outcome.steps, between)

    def _call(self, hooks: Hooks) -> None:
        """One call of the device: steps up to the next edge, or to a signal."""
        step, schedule = self.outcome.steps, self.schedule
        tuning = self.steps_per_execution.measuring
        count = min(self.steps_per_execution.value, schedule.next_edge(step) - step)
        hooks.begin_steps(step)
        start = time.perf_counter()
        count = self.loop.run(count)
        if tuning:
            self.loop.wait()
        seconds = time.perf_counter() - start
        self.outcome.steps = step = step + count
        self._count_steps(seconds)
        if self.synchronous:
            self.throughput.add(step, count, seconds)
        if tuning:
            self.steps_per_execution.add(step, count, seconds)
            self.throughput.extend_warmup(self.steps_per_execution.settled_at)
        hooks.end_steps(step)
        self._do_after_first()

    def _do_after_first(self) -> None:
        if self.after_first is None:
            return
        self.loop.wait()
        start, after_first, self.after_first = time.perf_counter(), self.after_first, None
        after_first()
        self._beside_seconds += time.perf_counter() - start

    def _edge(self, hooks: Hooks) -> Reason | None:
        """What is due at the present step; the reason to stop, or None.

        Where a signal cuts its evaluation short, it is as if it had not begun, and still due.
        """
        if self._edge_due:  # its checkpoint is one from before it
            self._edge_due, self._saved_at = False, None
        step, schedule = self.outcome.steps, self.schedule
        ended = step == schedule.total_steps
        evaluating = step % schedule.eval_every == 0 or ended
        # A monitored train/* tag is that of a window, which must end where it is compared.
        compared = evaluating and self.best.tag.startswith("train/")
        logging = step % schedule.log_every == 0 or ended or compared
        before = self._kept(CHANGED) if evaluating else {}
        window = self._drain() if logging else None
        reason = self._check(window) if window else None
        validation: Values | None = {}
        if ended:
            reason = reason or self.rules.at_end(step, self.history)
            self._finalize()
        if reason is None and evaluating:
            validation = self._evaluate(hooks)
            if validation is None:
                checkpointing.restore({name: self._all_parts[name] for name in before}, before)
                self._edge_due = True
                return None
            reason = self._compare(validation)
        if window or validation:
            self.record(step, window, validation or {})
        if step % schedule.steps_per_epoch == 0 or ended:
            hooks.end_epoch(step, self.outcome.final)
        due = self.checkpoints is not None and self.checkpoints.due(step)
        self.model.stop_training, due = self.interrupted.settle(self.model.stop_training, due)
        if reason is None and self.model.stop_training and not ended:
            reason = Reason("callback", step, "a Keras callback set model.stop_training")
        if reason is None and self.checkpoints is not None:
            best = evaluating and self.best.step == step and self.checkpoints.keep_best
            if best or ended or due:
                self._save(best=best)
        return reason

    def _kept(self, names: Iterable[str]) -> dict[str, Any]:
        """The states of some parts, to go back to."""
        return {name: self._all_parts[name].state() for name in names if name in self._all_parts}

    def _collect(self) -> None:
        """Take what the device has measured off it. Waits for the device."""
        start = time.perf_counter()
        self._window.add(self.loop.drain())
        self._count_steps(time.perf_counter() - start)

    def _count_steps(self, seconds: float) -> None:
        """Count time that the device's steps took."""
        self._step_seconds += seconds
        self._window.seconds += seconds

    def _drain(self) -> Window:
        """The window of the steps since the last one. Waits for the device."""
        self._collect()
        self._do_after_first()  # for a run that goes on where no step is left before this one
        step = self.outcome.steps
        steps = step - self._window.since
        window = self._window.close(
            step,
            self.batch_size,
            metrics=metric_values(self.model),
            learning_rate=self.learning_rate(),
            complete=step % self.schedule.log_every == 0,
        )
        if not self.synchronous:
            self.throughput.add(step, steps, window.seconds)
        self.throughput.add_wait(window)
        self.history.add(window)
        self.outcome.final.update(window.train_values)
        return window

    def _check(self, window: Window) -> Reason | None:
        """What broke a step of the window, if any broke, and whether that is reason to stop."""
        start = time.perf_counter()
        if (cause := self.diagnose(window)) is not None:
            self.outcome.seconds["diagnose"] += time.perf_counter() - start
        return self.rules.check(window, cause)

    def _evaluate(self, hooks: Hooks) -> Values | None:
        """One pass over the validation data: `validation/*` values; none without such data.

        None where a signal cuts it short.
        """
        if self.evaluation is None:
            return {}
        self.loop.wait()
        hooks.begin_validation()
        with self.outcome.timed("evaluate"):
            replicas.average_statistics(self.model, self.team)
            result = self.evaluation.run()
        if result is None:
            return None
        hooks.end_validation(result)
        values = {f"validation/{name}": value for name, value in result.items()}
        self.outcome.final.update(values)
        return values

    def _compare(self, validation: Values) -> Reason | None:
        """Hold an evaluation against the best one; the reason to stop early, or None."""
        values = self.outcome.final if self.best.tag.startswith("train/") else validation
        return self.best.update(self.outcome.steps, values.get(self.best.tag))

    def _finalize(self) -> None:
        """Put the weights' moving average, if there is one, in their place, once."""
        if not self._finalized:
            self._variables.keep_raw()
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self._finalized = True

    def _end(self, reason: Reason | None, hooks: Hooks) -> None:
        """Name why training ends before its last step."""
        step = self.outcome.steps
        early = reason is not None and reason.is_early
        self._stopped = reason if early else None
        if reason is None or early:
            self._save(best=self.best.step == step)  # without the row that follows: a resumed run
        if step > self._window.since:  # writes it again when it is whole
            window = self._drain()
            self.record(step, window, {})
            if early or not self.interrupted:
                reason = self._check(window) or reason
        if early:
            reason = self.rules.at_end(step, self.history) or reason
        if reason is not None:
            self.outcome.status = "stopped_early" if reason.is_early else "diverged"
        self.outcome.reason = reason or self._by_signal()
        averaged = self.model.optimizer.inner_optimizer.use_ema and not self._finalized
        if averaged and self.outcome.status == "stopped_early":
            self._finalize()
            if (validation := self._evaluate(hooks)) is None:
                self.outcome.reason = self._by_signal()
            else:
                self.record(step, None, validation)

    def _by_signal(self) -> Reason:
        """The run is to go on from here later, in another process: a signal has ended this one."""
        self.outcome.status = "interrupted"
        return Reason("signal", self.outcome.steps, f"{self.interrupted.signal} was received")
