"""The host's side of training: groups steps into calls, and acts at their edges."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np

from mpt import checkpointing, replicas
from mpt.agreement import Agreement
from mpt.callback_state import Callbacks
from mpt.checkpoint import Found
from mpt.checkpointing import Checkpointing, Part
from mpt.hooks import callback_list, wants_batches
from mpt.loop import EvaluationLoop, TrainLoop, metric_values
from mpt.progress import Outcome, Schedule, Values, kept_rollback, kept_rows
from mpt.resumable import RandomNumbers, Variables
from mpt.state_fields import Fields, number
from mpt.stopping import Best, Cause, DivergenceRules, Reason
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.throughput import Throughput
from mpt.telemetry.window import Window
from mpt.tuning import StepsPerExecution
from mpt.workers import ALONE, Team

STATE = (  # what a checkpoint has of a training
    *("step", "left_out", "drained_at", "pending", "window_seconds", "final", "seconds"),
    *("rollbacks", "stopped", "edge_due"),
)
EARLY = ("early_stopping", "callback")  # rules by which a run stops early, and not diverged
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
        after_first: done once, behind the first call, for what a run wants to know but need not
            know before it begins; its time is not training's.
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
    _drained_at: int = 0
    _pending: list[dict[str, np.ndarray]] = field(default_factory=list)
    _window_seconds: float = 0.0
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
        hooks = callback_list(self.callbacks, self.model, self.schedule)
        self._variables = Variables(self.model, self.team)
        self._all_parts: dict[str, Part] = {  # those that write to the run's folder come last
            "variables": self._variables,
            "callbacks": Callbacks(hooks.callbacks),
            "random": RandomNumbers(),
            "rules": self.rules,
            "best": self.best,
            "loss_scale": self.history,
            "throughput": self.throughput,
            "steps_per_execution": self.steps_per_execution,
            "training": self,
            **self.parts,
        }
        hooks.on_train_begin()
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
        hooks.on_train_end()
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
        return {
            "step": self.outcome.steps,
            "left_out": self._left_out,
            "drained_at": self._drained_at,
            "pending": self._rows(),
            "window_seconds": self._window_seconds,
            "final": dict(self.outcome.final),
            "seconds": dict(self.outcome.seconds),
            "rollbacks": list(self.outcome.rollbacks),
            "stopped": asdict(self._stopped) if self._stopped else None,
            "edge_due": self._edge_due,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` says. The data's place is `batches_from`'s to take.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        kept = Fields(state, *STATE)
        step, left_out, drained_at = (kept.whole(n) for n in ("step", "left_out", "drained_at"))
        if drained_at > step:
            raise ValueError(f"the last logged step is {drained_at}, the present one {step}")
        pending = kept_rows(kept.mapping("pending"), self.loop.columns)
        final = {tag: number(value, tag) for tag, value in kept.mapping("final").items()}
        spent = Fields(kept.part("seconds"), *self.outcome.seconds)
        seconds = {name: spent.seconds(name) for name in self.outcome.seconds}
        rollbacks = [kept_rollback(each) for each in kept.items("rollbacks")]
        stopped = None if kept.is_none("stopped") else Reason.kept(kept.part("stopped"))
        window_seconds, edge_due = kept.seconds("window_seconds"), kept.flag("edge_due")
        outcome = self.outcome
        outcome.steps, outcome.final, outcome.seconds = step, final, seconds
        outcome.rollbacks = rollbacks
        self._left_out, self._drained_at = left_out, drained_at
        self._pending, self._window_seconds = [pending] if pending else [], window_seconds
        self._stopped, self._edge_due, self._finalized = stopped, edge_due, False

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
        start = time.perf_counter()
        healthy = self.rules.healthy(self._rows())
        self.checkpoints.save(self.outcome.steps, self._all_parts, healthy=healthy, best=best)
        self._saved_at = self.outcome.steps
        self.outcome.seconds["save"] += time.perf_counter() - start

    def _roll_back(self, reason: Reason) -> bool:
        """Go back to the last good checkpoint and leave out the batches since, if that may help."""
        outcome = self.outcome
        early = reason.rule in EARLY
        if early or self.checkpoints is None or len(outcome.rollbacks) >= self.max_rollbacks:
            return False
        found = self._to_go_back_to(self.checkpoints)
        if found is None:
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

    def _to_go_back_to(self, checkpoints: Checkpointing) -> Found | None:
        """The last good checkpoint: that which the chief has found, if all members find it."""
        found = checkpoints.last_healthy() if self.team.is_chief else None
        if self.team.size == 1:
            return found
        step = self.team.exchange(found.step if found is not None else None)[0]
        if step is None:
            return None
        if not self.team.is_chief:
            found = checkpoints.at(step)
        if self.team.any(found is None)[0]:
            self.tell(
                f"Not all workers find the checkpoint of step {step}: the run's folder must lie on "
                "storage that all of them share."
            )
            return None
        return found

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
        edges = sum(value for name, value in self.outcome.seconds.items() if name != "train")
        return edges + self._beside_seconds

    def _call(self, hooks: keras.callbacks.CallbackList) -> None:
        """One call of the device: steps up to the next edge, or to a signal."""
        step, schedule = self.outcome.steps, self.schedule
        batch = step % schedule.steps_per_epoch
        if batch == 0:
            self.model.reset_metrics()
            hooks.on_epoch_begin(step // schedule.steps_per_epoch)
        tuning = self.steps_per_execution.measuring
        count = min(self.steps_per_execution.value, schedule.next_edge(step) - step)
        hooks.on_train_batch_begin(batch)
        start = time.perf_counter()
        count = self.loop.run(count)
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
        logs = metric_values(self.model) if wants_batches(self.callbacks) else {}
        hooks.on_train_batch_end(batch + count - 1, logs)
        self._do_after_first()

    def _do_after_first(self) -> None:
        if self.after_first is None:
            return
        self.loop.wait()
        start, after_first, self.after_first = time.perf_counter(), self.after_first, None
        after_first()
        self._beside_seconds += time.perf_counter() - start

    def _edge(self, hooks: keras.callbacks.CallbackList) -> Reason | None:
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
            # To read metrics waits for the device: only where a callback will look at them.
            metrics = metric_values(self.model) if self.callbacks else {}
            logs = {**metrics, **self._validation_logs()}
            hooks.on_epoch_end((step - 1) // schedule.steps_per_epoch, logs)
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
        rows = self.loop.drain()
        if rows["loss"].size:
            self._pending.append(rows)
        waited = time.perf_counter() - start
        self._step_seconds += waited
        self._window_seconds += waited

    def _rows(self) -> dict[str, np.ndarray]:
        """What was measured of the steps since the last logged one; empty where there are none."""
        if len(self._pending) > 1:
            columns = self._pending[0]
            joined = {c: np.concatenate([rows[c] for rows in self._pending]) for c in columns}
            self._pending = [joined]
        return self._pending[0] if self._pending else {}

    def _drain(self) -> Window:
        """The window of the steps since the last one. Waits for the device."""
        self._collect()
        step = self.outcome.steps
        steps = step - self._drained_at
        window = Window(
            step=step,
            rows=self._rows(),
            seconds=self._window_seconds,
            examples=steps * self.batch_size,
            metrics=metric_values(self.model),
            learning_rate=self.learning_rate(),
            complete=step % self.schedule.log_every == 0,
        )
        if not self.synchronous:
            self.throughput.add(step, steps, window.seconds)
        self.throughput.add_wait(window)
        self.history.add(window)
        self._drained_at, self._window_seconds, self._pending = step, 0.0, []
        self.outcome.final.update(window.train_values)
        return window

    def _check(self, window: Window) -> Reason | None:
        """What broke a step of the window, if any broke, and whether that is reason to stop."""
        start = time.perf_counter()
        cause = self.diagnose(window)
        if cause is not None:
            self.outcome.seconds["diagnose"] += time.perf_counter() - start
        return self.rules.check(window, cause)

    def _evaluate(self, hooks: keras.callbacks.CallbackList) -> Values | None:
        """One pass over the validation data: `validation/*` values; none without such data.

        None where a signal cuts it short.
        """
        if self.evaluation is None:
            return {}
        self.loop.wait()
        hooks.on_test_begin()
        start = time.perf_counter()
        replicas.average_statistics(self.model, self.team)
        result = self.evaluation.run()
        self.outcome.seconds["evaluate"] += time.perf_counter() - start
        if result is None:
            return None
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
            self._variables.keep_raw()
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self._finalized = True

    def _validation_logs(self) -> Values:
        prefix = "validation/"
        final = self.outcome.final
        return {f"val_{k[len(prefix) :]}": v for k, v in final.items() if k.startswith(prefix)}

    def _end(self, reason: Reason | None, hooks: keras.callbacks.CallbackList) -> None:
        """Name why training ends before its last step."""
        step = self.outcome.steps
        early = reason is not None and reason.rule in EARLY
        self._stopped = reason if early else None
        if reason is None or early:
            self._save(best=self.best.step == step)  # without the row that follows: a resumed run
        if step > self._drained_at:  # writes it again when it is whole
            window = self._drain()
            self.record(step, window, {})
            if early or not self.interrupted:
                reason = self._check(window) or reason
        if reason is not None:
            self.outcome.status = "stopped_early" if reason.rule in EARLY else "diverged"
        self.outcome.reason = reason or self._interrupt()
        averaged = self.model.optimizer.inner_optimizer.use_ema and not self._finalized
        if averaged and self.outcome.status == "stopped_early":
            self._finalize()
            validation = self._evaluate(hooks)
            if validation is None:
                self.outcome.reason = self._interrupt()
            else:
                self.record(step, None, validation)

    def _interrupt(self) -> Reason:
        """The run is to go on from here later, in another process: a signal has ended this one."""
        self.outcome.status = "interrupted"
        message = f"{self.interrupted.signal} was received"
        return Reason("signal", self.outcome.steps, message)
