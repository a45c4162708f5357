"""One run, from its configuration to its report."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import psutil
import tensorflow as tf

from mpt import errors, report, reporting, resuming, saving, smoke, stall
from mpt.checkpoint import Checkpoints
from mpt.checkpointing import Checkpointing
from mpt.concurrency import Presence
from mpt.console import Console
from mpt.data.errors import input_error
from mpt.errors import ConfigurationError
from mpt.execution import Execution, make_execution
from mpt.loop import EvaluationLoop, iterate
from mpt.numerics import Diagnosis, Watch
from mpt.preparation import Prepared, prepare
from mpt.report import RunReport
from mpt.reporting import Clock, Sessions
from mpt.resuming import Ended, Resumption
from mpt.run_folder import HYDRA, LOG, METRICS, REPORT, FolderGone, RunFolder
from mpt.schema import TrainConfig
from mpt.stall import StallWatch
from mpt.stopping import DivergenceRules
from mpt.telemetry import gradients, hparams, markdown, memory
from mpt.telemetry.compute import Compute, forward_pass, matmul_peak
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.recorder import SOURCES, Recorder
from mpt.telemetry.tensorboard import PREFIX, Board
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
    whole = steps is None
    with Presence() as presence, ExitStack() as stack:
        folder, resumed = _reopened(run_dir, config, stack) if whole else (None, None)
        if isinstance(resumed, Ended):
            console.nothing_left(resumed.message, run_dir)
            return resumed.exit_code
        chosen = resumed.run if resumed is not None else {}
        try:
            prepared = prepare(
                config,
                allow,
                batch_size=chosen.get("batch_size", batch_size),
                cpu_limit_mb=cpu_limit_mb,
                policy=chosen.get("policy"),
                trained=bool(chosen),
            )
            result = reporting.begin(prepared, run_dir, command, clock)
            if batch_size_reason is not None:
                result.execution.choice_reasons["batch_size"] = batch_size_reason
            _check_goes_on(resumed, prepared)
            result.warnings += resumed.warnings if resumed is not None else ()
            console.header(result, total_steps=prepared.total_steps)
            execution = make_execution(prepared, chosen.get("jit"))
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            console.error(_out_of_memory(batch_size or config.batch_size, error))
            return errors.OUT_OF_MEMORY
        except BaseException:
            console.stop()
            raise
        if steps is not None:
            prepared = _beginning(prepared, steps)
        if folder is None:
            folder = stack.enter_context(RunFolder.create(run_dir))
        _begin(folder, resumed, composed)
        board = stack.enter_context(_board(prepared, result, folder, composed, resumed))
        console.attach(folder.log)
        folder.tell = partial(_tell, result, console)
        folder.write_json("precision.json", report.encode(result.precision))

        def conclude() -> None:
            _conclude(prepared, result, folder, board, presence, clock, console)
            console.close(result, folder.path)

        def stalled(training: Training, describe: Callable[[], None], waited: float) -> None:
            describe()
            _report_stall(result, console, training, waited)
            conclude()
            os._exit(result.exit_code)  # the main thread is inside TensorFlow, out of reach

        with _failures_reported(result, console, folder):
            _train(
                *(prepared, execution, result, folder, board, console, clock, resumed, stalled),
                whole=whole,
            )
            if whole:
                _save(prepared.model, result, folder, console)
        conclude()
    return result.exit_code


def _report_stall(result: RunReport, console: Console, training: Training, waited: float) -> None:
    """Put into the report that the input has stalled."""
    loop, number = training.awaited() or ("training", 0)
    error = stall.stalled(f"batch {number} of this process's {loop} data", waited)
    result.status = "failed"
    result.reason = report.Reason(rule="input_stalled", message=error.message)
    console.error(error)


def _reopened(
    run_dir: Path, config: TrainConfig, stack: ExitStack
) -> tuple[RunFolder | None, Ended | Resumption | None]:
    """The folder of the run that is to go on, locked, and where that stands; or no folder."""
    if not (run_dir / HYDRA / "config.yaml").exists():
        return None, None
    folder = stack.enter_context(RunFolder.reopen(run_dir))
    return folder, resuming.find(run_dir, config)


def _check_goes_on(resumed: Resumption | None, prepared: Prepared) -> None:
    """Refuse to go on with other data, or to a step that is passed already."""
    if resumed is None or resumed.found is None:
        return
    if resumed.run.get("fingerprint") != prepared.data.fingerprint:
        raise ConfigurationError(
            "The data is not what this run has been trained on: its fingerprint differs.",
            where="dataset",
            remedy="bring the data back, or start a new run with init_from",
        )
    if resumed.found.step > prepared.total_steps:
        raise ConfigurationError(
            f"The run has come to step {resumed.found.step} already, and is to end at "
            f"{prepared.total_steps}.",
            where="trainer.steps" if prepared.config.trainer.steps else "trainer.epochs",
            remedy="give more steps",
        )


def _begin(folder: RunFolder, resumed: Resumption | None, composed: dict[str, str]) -> None:
    """Leave nothing in the folder that what follows would contradict."""
    if resumed is not None:
        Checkpoints(folder.path).go_on_from(resumed.found)
        (folder.path / REPORT).unlink(missing_ok=True)
        if resumed.found is None:
            folder.cut(folder.path / METRICS, 0)
            for path in folder.tensorboard.glob(f"{PREFIX}*"):
                path.unlink()
    folder.write_hydra(**composed)


def _conclude(
    prepared: Prepared,
    result: RunReport,
    folder: RunFolder,
    board: Board | None,
    presence: Presence,
    clock: Clock,
    console: Console,
) -> None:
    """Write the report."""
    result.artifacts |= {"metrics": METRICS, "precision": "precision.json", "log": LOG}
    _list_checkpoints(result, folder)
    result.memory = memory.summary()
    _check_smoke(prepared, result, folder)
    result.exit_code = EXIT_CODES[result.status]
    rule = result.reason.rule if result.reason is not None else None
    if rule == "signal" and "checkpoint" in result.artifacts:
        result.exit_code = errors.SAVED
    elif rule == "input":
        result.exit_code = errors.INVALID
    presence.count()
    result.device.concurrent_jobs = presence.most
    reporting.end(result, clock)
    if board is not None:
        hparams.end(board, result)
    try:
        folder.write_json(REPORT, result.to_json())
    except OSError as error:
        console.error(f"The report cannot be written: {error.strerror}.\n  where:   {folder.path}")
        result.exit_code = result.exit_code or errors.FAILED


def _list_checkpoints(result: RunReport, folder: RunFolder) -> None:
    """Name in the report what can be gone on from, and gone back to."""
    store = Checkpoints(folder.path)
    named = {"checkpoint": store.last(), "best_checkpoint": store.best()}
    if result.status == "diverged":
        named["last_good_checkpoint"] = store.last(healthy=True)
    result.artifacts |= {
        name: folder.relative(path) for name, path in named.items() if path is not None
    }


def _tell(result: RunReport, console: Console, text: str) -> None:
    """Warn, and put it into the report."""
    result.warnings.append(text)
    console.warning(text)


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
    resumed: Resumption | None,
    stalled: Callable[[Training, Callable[[], None], float], None],
    *,
    whole: bool,
) -> None:
    """Train, and put what came of it into the report.

    Args:
        stalled: told of a batch that does not come, from another thread: the seconds waited, what
            waits, and how the report is filled.
    """
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
    watch = _watch(prepared, execution, result, console, board)
    tell = partial(_tell, result, console)
    sessions = Sessions(result, clock, prepared, execution)
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
        diagnose=watch.check,
        batches_from=lambda batch: iterate(data.at(batch), prepared.strategy),
        checkpoints=_checkpointing(prepared, folder, tell) if whole else None,
        parts={"watch": watch, "run": sessions, "recorder": recorder},
        max_rollbacks=config.trainer.max_rollbacks
        if config.trainer.on_divergence == "rollback"
        else 0,
        tell=tell,
        callbacks=prepared.callbacks,
    )
    result.wall_seconds.startup = clock.elapsed - execution.jit.seconds

    def describe() -> None:
        reporting.describe_execution(result, prepared, execution, steps)
        reporting.describe_outcome(result, prepared, training, compute)
        sessions.add_up()

    if resumed is not None and resumed.found is not None:
        result.training.resumed_from_step = resumed.found.step
        console.note(f"It goes on from step {resumed.found.step}: {resumed.found.path}")
    try:
        with StallWatch(data.stall_seconds, training.awaited, partial(stalled, training, describe)):
            training.run(resumed.state if resumed is not None else None)
    except (tf.errors.OpError, StopIteration) as error:
        raise input_error(error, data) or error from error
    finally:
        describe()


def _schedule(prepared: Prepared) -> Schedule:
    trainer, epoch = prepared.config.trainer, prepared.data.steps_per_epoch
    return Schedule(
        prepared.total_steps,
        epoch,
        trainer.log_every,
        trainer.eval_every or epoch,
        trainer.checkpoint_every,
    )


def _checkpointing(
    prepared: Prepared, folder: RunFolder, tell: Callable[[str], None]
) -> Checkpointing:
    trainer = prepared.config.trainer
    return Checkpointing(
        Checkpoints(folder.path, keep=trainer.keep, keep_best=trainer.keep_best),
        every=trainer.checkpoint_every,
        minutes=trainer.checkpoint_minutes,
        keep_best=trainer.keep_best,
        tell=tell,
    )


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
    prepared: Prepared,
    result: RunReport,
    folder: RunFolder,
    composed: dict[str, str],
    resumed: Resumption | None,
) -> Iterator[Board | None]:
    """The event file, with the dashboard's layout, and what the run is as settings and text."""
    if not prepared.config.telemetry.tensorboard:
        yield None
        return
    known = resumed is not None and any(folder.tensorboard.glob(f"{PREFIX}*"))
    with Board(folder.tensorboard, folder.lost) as board:
        result.artifacts["tensorboard"] = folder.relative(folder.tensorboard)
        if known:
            yield board
            return
        board.layout()
        reason = f"{result.precision.policy}: {result.precision.reason}"
        board.text("run/precision", markdown.escape(reason))
        layers = report.encode(result.precision.table)
        board.text("run/layers", markdown.table(markdown.LAYER_COLUMNS, layers))
        board.text("run/config", markdown.fenced(composed["config"], "yaml"))
        hparams.begin(board, result, composed.get("overrides", "[]"))
        board.flush()
        yield board


def _save(model: keras.Model, result: RunReport, folder: RunFolder, console: Console) -> None:
    """Save the model, and say what else lies in the folder."""
    start = time.perf_counter()
    try:
        saving.save(model, folder.path / "model.keras")
    except OSError as error:
        folder.check()
        message = f"The model cannot be saved: {error.strerror or error}."
        if result.status != "interrupted":
            result.status, result.reason = "failed", report.Reason(rule="save", message=message)
        console.error(
            f"{message}\n  to do:   make room, and mpt train resume={folder.path} saves it"
        )
        return
    result.artifacts["model"] = "model.keras"
    saved = time.perf_counter() - start
    result.wall_seconds.save = (result.wall_seconds.save or 0.0) + saved


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
        result.reason = report.Reason(rule="interrupt", message="interrupted at once")
    except ConfigurationError as error:  # found only now, as a file that cannot be read
        result.status = "failed"
        result.reason = report.Reason(rule="input", message=error.message)
        console.error(error)
    except FolderGone as error:
        result.status = "failed"
        result.reason = report.Reason(rule="folder", message=str(error))
        console.error(f"{error}\n  What it held is lost; the run ends here.")
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
