"""A run's training, put together from its parts."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import tensorflow as tf

from mpt import reporting, saving
from mpt.agreement import Agreement
from mpt.averaging import AveragedEvaluation
from mpt.checkpoint import Checkpoints
from mpt.checkpointing import Checkpointing, Part
from mpt.execution import training_batches
from mpt.loop import EvaluationLoop
from mpt.numerics import Diagnosis, Watch
from mpt.preparation import Prepared
from mpt.progress import Schedule, Values
from mpt.replicas import iterate
from mpt.reporting import EarlierProcesses
from mpt.resuming import FolderState
from mpt.session import Session
from mpt.stopping import DivergenceRules
from mpt.telemetry import gradients
from mpt.telemetry.compute import Compute, forward_pass
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.peaks import known_matmul_peak
from mpt.telemetry.recorder import SOURCES, Recorder
from mpt.telemetry.throughput import Throughput
from mpt.telemetry.window import Window
from mpt.training import Training
from mpt.tuning import StepsPerExecution


class Assembly:
    """The training of one session, and how its report is filled from it.

    Attributes:
        training: ready to run.
    """

    def __init__(self, session: Session):
        self._session = session
        prepared, execution, result = session.prepared, session.execution, session.result
        self._compute = Compute()
        saving.save_plainly(prepared.model)
        config = prepared.config
        self._steps = StepsPerExecution.choose(
            config.trainer.steps_per_execution,
            prepared.total_steps,
            config.device.deterministic,
            prepared.team.size,
            execution.cache.steps_per_execution(),
        )
        reporting.describe_execution(result, prepared, execution, self._steps)
        self._earlier = EarlierProcesses(result, session.clock, prepared, execution)
        self.training = self._training()
        result.wall_seconds.startup = session.clock.elapsed - execution.jit.seconds

    def describe(self) -> None:
        """Fill the report from what training came to; once, at its end."""
        session = self._session
        result, prepared = session.result, session.prepared
        if self._steps.measured:
            session.execution.cache.put_steps_per_execution(self._steps)
        reporting.describe_execution(result, prepared, session.execution, self._steps)
        reporting.describe_outcome(result, prepared, self.training, self._compute)
        self._earlier.add_up()

    def _training(self) -> Training:
        session = self._session
        prepared, result = session.prepared, session.result
        trainer = prepared.config.trainer
        recorder, watch, team = self._recorder(), _watch(session), prepared.team
        agreement = Agreement(team, session.interrupted)
        parts: dict[str, Part] = {"watch": watch, "run": self._earlier}
        if team.is_chief:  # whose the folder is
            parts |= {
                "folder": FolderState(
                    session.folder,
                    session.resumed,
                    prepared.config,
                    session.composed,
                    begun=partial(session.console.attach, session.folder.log),
                ),
                "recorder": recorder,
            }
        initial = float(result.loss_scale.initial or 1)
        return Training(
            model=prepared.model,
            loop=session.execution.loop,
            evaluation=_evaluation(session, agreement),
            schedule=_schedule(prepared),
            steps_per_execution=self._steps,
            rules=_rules(prepared),
            best=prepared.best,
            throughput=Throughput(trainer.warmup_steps, prepared.batch_size),
            history=LossScaleHistory(str(result.loss_scale.mode), initial),
            batch_size=prepared.batch_size,
            synchronous=prepared.device.kind == "cpu",
            record=recorder.record if team.is_chief else _unrecorded,
            learning_rate=partial(_learning_rate, prepared),
            diagnose=watch.check,
            batches_from=partial(_batches_from, session),
            interrupted=agreement,
            team=team,
            checkpoints=_checkpointing(session) if session.whole else None,
            parts=parts,
            max_rollbacks=trainer.max_rollbacks if trainer.on_divergence == "rollback" else 0,
            tell=session.tell,
            after_first=self._measure_compute,
            callbacks=prepared.callbacks,
        )

    def _measure_compute(self) -> None:
        """Count the model's FLOPs, and measure the peak of all devices on one."""
        prepared, start = self._session.prepared, self._session.clock.elapsed
        self._compute.forward = forward_pass(prepared.model, prepared.data.element_spec[0])
        if prepared.config.telemetry.peak:
            peak = known_matmul_peak(
                prepared.compute_dtype, prepared.tuning_cache, tf32=prepared.choice.tf32
            )
            self._compute.peak = peak and peak * prepared.processors
        seconds = self._session.result.wall_seconds
        seconds.startup = (seconds.startup or 0.0) + self._session.clock.elapsed - start

    def _recorder(self) -> Recorder:
        session = self._session
        prepared = session.prepared
        sources = [*SOURCES, self._compute.tags]
        if prepared.config.telemetry.gradients:
            sources.append(partial(gradients.tags, dtype=prepared.compute_dtype))
        return Recorder(
            session.folder,
            session.console,
            session.board,
            sources,
            total_steps=prepared.total_steps,
            steps_per_epoch=prepared.data.steps_per_epoch,
            histograms=prepared.optimizer.histograms,
        )


def _watch(session: Session) -> Watch:
    """What finds out what broke a step, and puts it where it is looked for."""

    def tell(found: Diagnosis) -> None:
        if (entry := found.entry()) in session.result.diagnosis:
            return  # the step's edge was cut short by a signal, and is done again
        session.result.diagnosis.append(entry)
        session.console.warning(found.message)
        if session.board is not None:
            session.board.text("diagnosis/nonfinite", found.markdown, found.step)
            session.board.flush()

    prepared = session.prepared
    overrides = prepared.config.precision.overrides
    return Watch(session.execution.capture, prepared.model, overrides, tell)


def _batches_from(
    session: Session, batch: int, read: Callable[[int | None], None]
) -> Iterator[Any]:
    """An iterator over the training data from a batch on, counted from 0.

    Data from a user's function are read again up to there.

    Args:
        read: told of each batch that is read again, before it is, and of None after them; a signal
            ends it.
    """
    prepared = session.prepared
    data, strategy, team = prepared.data, prepared.strategy, prepared.team
    if batch == 0 or data.jump is not None:
        return training_batches(prepared, batch)
    session.console.note(f"The data is read again, up to batch {batch}.")
    if data.reshuffles:
        session.tell(
            "The dataset's function shuffles anew each time it is read: from here on the batches "
            "are others than an unbroken run's. dataset.shuffle=true keeps their order, and so "
            "does shuffle(..., reshuffle_each_iteration=False)."
        )
    iterator = iterate(data.train, strategy, team)
    for number in range(1, batch + 1):
        if session.interrupted and team.size == 1:  # others would wait for their share
            break
        read(number)
        next(iterator)
    read(None)
    return iterator


def _checkpointing(session: Session) -> Checkpointing:
    trainer = session.prepared.config.trainer
    return Checkpointing(
        Checkpoints(session.run_dir, keep=trainer.keep, keep_best=trainer.keep_best),
        every=trainer.checkpoint_every,
        minutes=trainer.checkpoint_minutes,
        keep_best=trainer.keep_best,
        tell=session.tell,
        writing=session.prepared.team.is_chief,
    )


def _schedule(prepared: Prepared) -> Schedule:
    trainer, epoch = prepared.config.trainer, prepared.data.steps_per_epoch
    return Schedule(
        prepared.total_steps,
        epoch,
        trainer.log_every,
        trainer.eval_every or epoch,
        trainer.checkpoint_every,
    )


def _rules(prepared: Prepared) -> DivergenceRules:
    stop, scale = prepared.config.trainer.stop, prepared.config.loss_scale
    dynamic = prepared.optimizer.mode == "dynamic"
    return DivergenceRules(
        scale.max_consecutive_skips,
        stop.max_loss,
        stop.flat_steps,
        max_loss_ratio=stop.max_loss_ratio,
        zero_gradient_steps=stop.zero_gradient_steps,
        min_scale=scale.min_scale if dynamic else None,
        initial_scale=scale.initial_scale,
    )


def _learning_rate(prepared: Prepared) -> float:
    rate = prepared.optimizer.learning_rate
    return float(tf.convert_to_tensor(rate).numpy())  # a mirrored variable has no float()


def _evaluation(session: Session, agreement: Agreement) -> EvaluationLoop | None:
    prepared, data = session.prepared, session.prepared.data
    if data.validation is None:
        return None
    iterator = iterate(data.validation, prepared.strategy, prepared.team)
    parts = (prepared.model, prepared.strategy, iterator, data.validation_batches)
    if prepared.team.size > 1:
        return AveragedEvaluation(*parts, ended=agreement.interrupted)
    loop = AveragedEvaluation(*parts)
    session.interrupted.also(loop.halt)
    return loop


def _unrecorded(_step: int, _window: Window | None, _values: Values) -> None:
    """What a member measures that is not the chief: it is what the chief records."""
