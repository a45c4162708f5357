"""One run, from its configuration to its report."""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import psutil
import tensorflow as tf

from mpt import errors, report, reporting, saving, smoke
from mpt.concurrency import Presence
from mpt.console import Console
from mpt.execution import Execution, make_execution
from mpt.loop import EvaluationLoop, iterate
from mpt.numerics import Diagnosis, Watch
from mpt.preparation import Prepared, prepare
from mpt.report import RunReport
from mpt.reporting import Clock
from mpt.run_folder import LOG, METRICS, REPORT, RunFolder
from mpt.schema import TrainConfig
from mpt.stopping import DivergenceRules
from mpt.telemetry import gradients, hparams, markdown, memory
from mpt.telemetry.compute import Compute, forward_pass, matmul_peak
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.recorder import SOURCES, Recorder
from mpt.telemetry.tensorboard import Board
from mpt.telemetry.throughput import Throughput
from mpt.training import Schedule, Training
from mpt.tuning import StepsPerExecution

EXIT_CODES = {
    "completed": errors.OK,
    "stopped_early": errors.OK,
    "diverged": errors.DIVERGED,
    "oom": errors.OUT_OF_MEMORY,
    "interrupted": errors.INTERRUPTED,
    "failed": errors.FAILED,
}


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    steps: int | None = None,
    batch_size: int | None = None,
    batch_size_reason: str | None = None,
    cpu_limit_mb: int | None = None,
) -> int:
    """Train as `config` says and leave the evidence in `run_dir`.

    Args:
        command: the command line, for the report.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        composed: YAML texts for `.hydra/`: config, overrides, hydra.
        steps: train no further than this: the beginning of the run, with the whole run's
            schedules, but without evaluation, callbacks and a saved model.
        batch_size: the size that batch_size=max came to.
        batch_size_reason: why that one, for the report.
        cpu_limit_mb: see `mpt.preparation.prepare`.

    Returns:
        The exit code of the process.

    Raises:
        ConfigurationError: the configuration or the input cannot be used; nothing was written.
    """
    run_dir = Path(os.path.abspath(run_dir))
    console = Console(verbosity)
    clock = Clock(psutil.Process().create_time())
    with Presence() as presence:
        try:
            prepared = prepare(config, allow, batch_size=batch_size, cpu_limit_mb=cpu_limit_mb)
            result = reporting.begin(prepared, run_dir, command, clock)
            if batch_size_reason is not None:
                result.execution.choice_reasons["batch_size"] = batch_size_reason
            console.header(result, total_steps=prepared.total_steps)
            execution = make_execution(prepared)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            console.error(_out_of_memory(batch_size or config.batch_size, error))
            return errors.OUT_OF_MEMORY
        except BaseException:
            console.stop()
            raise
        whole = steps is None
        if steps is not None:
            prepared = _beginning(prepared, steps)
        with (
            RunFolder.create(run_dir) as folder,
            _board(prepared, result, folder, composed) as board,
        ):
            folder.write_hydra(**composed)
            console.attach(folder.log)
            folder.write_json("precision.json", report.encode(result.precision))
            with _failures_reported(result, console, folder):
                _train(prepared, execution, result, folder, board, console, clock)
                if whole:
                    _save(prepared.model, result, folder)
            _conclude(prepared, result, folder, board, presence, clock)
            console.close(result, folder.path)
    return result.exit_code


def _conclude(
    prepared: Prepared,
    result: RunReport,
    folder: RunFolder,
    board: Board | None,
    presence: Presence,
    clock: Clock,
) -> None:
    """Write the report."""
    result.artifacts |= {"metrics": METRICS, "precision": "precision.json", "log": LOG}
    result.memory = memory.summary()
    _check_smoke(prepared, result, folder)
    result.exit_code = EXIT_CODES[result.status]
    presence.count()
    result.device.concurrent_jobs = presence.most
    reporting.end(result, clock)
    if board is not None:
        hparams.end(board, result)
    folder.write_json(REPORT, result.to_json())


def _beginning(prepared: Prepared, steps: int) -> Prepared:
    """The run's first `steps`; what was built for the whole run, the schedules too, stays."""
    return replace(
        prepared,
        total_steps=min(steps, prepared.total_steps),
        data=replace(prepared.data, validation=None, validation_batches=0),
        callbacks=[],
    )


def _train(
    prepared: Prepared,
    execution: Execution,
    result: RunReport,
    folder: RunFolder,
    board: Board | None,
    console: Console,
    clock: Clock,
) -> None:
    """Train, and put what came of it into the report."""
    config, data = prepared.config, prepared.data
    compute = _compute(prepared)
    saving.save_plainly(prepared.model)
    steps = StepsPerExecution.choose(
        config.trainer.steps_per_execution, prepared.total_steps, config.device.deterministic
    )
    throughput = Throughput(config.trainer.warmup_steps, prepared.batch_size)
    history = LossScaleHistory(str(result.loss_scale.mode), float(result.loss_scale.initial or 1))
    sources = [*SOURCES, compute.tags]
    if config.telemetry.gradients:
        sources.append(partial(gradients.tags, dtype=prepared.compute_dtype))
    reporting.describe_execution(result, prepared, execution, steps)
    recorder = Recorder(
        folder,
        console,
        board,
        sources,
        total_steps=prepared.total_steps,
        steps_per_epoch=data.steps_per_epoch,
        histograms=prepared.optimizer.histograms,
    )
    training = Training(
        model=prepared.model,
        loop=execution.loop,
        evaluation=_evaluation(prepared),
        schedule=_schedule(prepared),
        steps_per_execution=steps,
        rules=_rules(config),
        best=prepared.best,
        throughput=throughput,
        history=history,
        batch_size=prepared.batch_size,
        synchronous=prepared.device.kind == "cpu",
        record=recorder.record,
        learning_rate=partial(_learning_rate, prepared),
        diagnose=_watch(prepared, execution, result, console, board).check,
        callbacks=prepared.callbacks,
    )
    result.wall_seconds.startup = clock.elapsed - execution.jit.seconds
    try:
        training.run()
    finally:
        reporting.describe_execution(result, prepared, execution, steps)
        reporting.describe_outcome(result, prepared, training, compute)


def _schedule(prepared: Prepared) -> Schedule:
    trainer, epoch = prepared.config.trainer, prepared.data.steps_per_epoch
    return Schedule(prepared.total_steps, epoch, trainer.log_every, trainer.eval_every or epoch)


def _rules(config: TrainConfig) -> DivergenceRules:
    stop = config.trainer.stop
    return DivergenceRules(config.loss_scale.max_consecutive_skips, stop.max_loss, stop.flat_steps)


def _watch(
    prepared: Prepared,
    execution: Execution,
    result: RunReport,
    console: Console,
    board: Board | None,
) -> Watch:
    """What finds out what broke a step, and puts it where it is looked for."""

    def tell(found: Diagnosis) -> None:
        result.diagnosis.append(found.entry())
        console.warning(found.message)
        if board is not None:
            board.text("diagnosis/nonfinite", found.markdown, found.step)
            board.flush()

    overrides = prepared.config.precision.overrides
    return Watch(execution.capture, prepared.model, overrides, tell)


def _learning_rate(prepared: Prepared) -> float:
    rate = prepared.optimizer.learning_rate
    return float(tf.convert_to_tensor(rate).numpy())  # a mirrored variable has no float()


def _compute(prepared: Prepared) -> Compute:
    """The model's FLOPs, counted, and the device's peak, measured."""
    forward = forward_pass(prepared.model, prepared.data.element_spec[0])
    wanted = prepared.config.telemetry.peak
    return Compute(forward, matmul_peak(prepared.compute_dtype) if wanted else None)


def _evaluation(prepared: Prepared) -> EvaluationLoop | None:
    data = prepared.data
    if data.validation is None:
        return None
    iterator = iterate(data.validation, prepared.strategy)
    return EvaluationLoop(prepared.model, prepared.strategy, iterator, data.validation_batches)


@contextmanager
def _board(
    prepared: Prepared, result: RunReport, folder: RunFolder, composed: dict[str, str]
) -> Iterator[Board | None]:
    """The event file, with the dashboard's layout, and what the run is as settings and text."""
    if not prepared.config.telemetry.tensorboard:
        yield None
        return
    with Board(folder.tensorboard) as board:
        board.layout()
        reason = f"{result.precision.policy}: {result.precision.reason}"
        board.text("run/precision", markdown.escape(reason))
        layers = report.encode(result.precision.table)
        board.text("run/layers", markdown.table(markdown.LAYER_COLUMNS, layers))
        board.text("run/config", markdown.fenced(composed["config"], "yaml"))
        hparams.begin(board, result, composed.get("overrides", "[]"))
        result.artifacts["tensorboard"] = folder.relative(folder.tensorboard)
        yield board


def _save(model: keras.Model, result: RunReport, folder: RunFolder) -> None:
    """Save the model, and say what else lies in the folder."""
    start = time.perf_counter()
    saving.save(model, folder.path / "model.keras")
    result.artifacts["model"] = "model.keras"
    result.wall_seconds.save = time.perf_counter() - start


@contextmanager
def _failures_reported(result: RunReport, console: Console, folder: RunFolder) -> Iterator[None]:
    """Turn what ends a run from within into its status and a message; the report is written."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        result.status = "oom"
        message = _out_of_memory(result.training.batch_size, error)
        result.diagnosis.append({"message": message})
    except KeyboardInterrupt:
        result.status = "interrupted"
        result.reason = report.Reason(rule="signal", message="interrupted at once")
    except Exception as error:
        result.status = "failed"
        result.reason = report.Reason(rule="error", message=f"{type(error).__name__}: {error}")
        for line in traceback.format_exc().splitlines():
            folder.log(line)
        console.error(f"The run failed: {type(error).__name__}: {error}")


def _check_smoke(prepared: Prepared, result: RunReport, folder: RunFolder) -> None:
    """A smoke run's own invariants; one that is broken makes a finished run a failed one."""
    if not prepared.config.trainer.smoke_checks:
        return
    config = prepared.config
    log_dir = folder.tensorboard if config.telemetry.tensorboard else None
    logged = (result.training.steps or 0) >= config.trainer.log_every
    result.smoke_checks = smoke.checks(
        result, log_dir=log_dir, gradients=config.telemetry.gradients and logged
    )
    broken = [str(one["name"]) for one in result.smoke_checks if not one["passed"]]
    if broken and result.status == "completed":
        result.status = "failed"
        result.reason = report.Reason(rule="smoke", message=f"broken: {', '.join(broken)}")


def _out_of_memory(batch_size: int | None, error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    # TensorFlow's own first line may only say that a graph was at work.
    said = next((line for line in lines if "OOM" in line), lines[0])[:300]
    return (
        f"Out of memory at batch_size={batch_size}: {said}\n"
        "  to do:   a smaller batch_size, a smaller model, or a 16-bit precision.policy"
    )
