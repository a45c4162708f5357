"""How a session ends, well or not: a status, a message, a saved model, and always a report."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from mpt import errors, report, reporting, saving, smoke, stall
from mpt.checkpoint import Checkpoints
from mpt.checkpointing import DoesNotFit
from mpt.concurrency import Presence
from mpt.errors import ConfigurationError
from mpt.preparation import Prepared
from mpt.printable import shell_word
from mpt.report import RunReport
from mpt.run_folder import LOG, METRICS, MODEL, REPORT, FolderGone, RunFolder
from mpt.session import Session
from mpt.telemetry import hparams, memory
from mpt.workers import WorkerLost

EXIT_CODES = {
    "completed": errors.OK,
    "stopped_early": errors.OK,
    "diverged": errors.DIVERGED,
    "oom": errors.OUT_OF_MEMORY,
    "interrupted": errors.INTERRUPTED,
    "failed": errors.FAILED,
}


@contextmanager
def failures_reported(session: Session) -> Iterator[None]:
    """Turn what ends a run from within into its status and a message; the report is written.

    Raises:
        DoesNotFit: the run never began.
    """
    result, console = session.result, session.console
    try:
        yield
    except DoesNotFit:
        raise
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        result.status = "oom"
        message = out_of_memory(result.training.batch_size, error)
        result.diagnosis.append({"message": message})
    except KeyboardInterrupt:
        result.status = "interrupted"
        result.reason = report.Reason(rule="interrupt", message="interrupted at once")
    except ConfigurationError as error:  # found only now, as a file that cannot be read
        _fail(result, "input", error.message)
        console.error(error)
    except FolderGone as error:
        _report_gone(session, error)
    except WorkerLost as error:
        report_lost(session, str(error))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        _fail(result, "error", message)
        for line in traceback.format_exc().splitlines():
            session.folder.log(line)
        console.error(f"The run failed: {message}")


def report_stall(session: Session, awaited: tuple[str, int], waited: float) -> None:
    """Put into the report that a batch does not come.

    Args:
        awaited: training or validation, and the number of the batch in this process.
        waited: s.
    """
    of, number = awaited
    error = stall.stalled(f"batch {number} of this process's {of} data", waited)
    _fail(session.result, "input_stalled", error.message)
    session.console.error(error)


def save_model(session: Session) -> None:
    """Save the model as model.keras.

    Raises:
        FolderGone: somebody took the folder away.
    """
    result, folder = session.result, session.folder
    start = time.perf_counter()
    folder.check()
    try:
        saving.save(session.prepared.model, folder.path / MODEL)
    except OSError as error:
        message = f"The model cannot be saved: {error.strerror or error}."
        if result.status != "interrupted":
            _fail(result, "save", message)
        last = _last_step(folder)
        again = "saves it" if last == result.training.steps else f"goes on from step {last or 0}"
        session.console.error(f"{message}\n  to do:   make room, and {_go_on(folder)} {again}")
        return
    result.artifacts["model"] = MODEL
    saved = time.perf_counter() - start
    result.wall_seconds.save = (result.wall_seconds.save or 0.0) + saved


def _go_on(folder: RunFolder) -> str:
    return f"mpt train {shell_word('resume', folder.path)}"


def _last_step(folder: RunFolder) -> int | None:
    """The step that the run can go on from; None where there is no checkpoint."""
    return max(Checkpoints(folder.path).steps(), default=None)


def conclude(session: Session, presence: Presence) -> None:
    """Write the report, and say what came of the run."""
    result, folder, console = session.result, session.folder, session.console
    result.artifacts |= {"metrics": METRICS, "precision": "precision.json", "log": LOG}
    _list_checkpoints(result, folder)
    result.memory = memory.summary()
    _check_smoke(session.prepared, result, folder)
    result.exit_code = _exit_code(result)
    if result.exit_code == errors.SAVED:
        _say_where_it_goes_on(result, folder)
    presence.count()
    result.device.concurrent_jobs = presence.most
    reporting.end(result, session.clock)
    if session.board is not None:
        hparams.end(session.board, result)
    try:
        folder.write_json(REPORT, result.to_json())
    except FolderGone as error:
        if result.reason is None or result.reason.rule != "folder":
            _report_gone(session, error)
            result.exit_code = _exit_code(result)
    except OSError as error:
        console.error(
            f"The report cannot be written: {error.strerror}.\n"
            f"  to do:   make room, and {_go_on(folder)} writes it"
        )
        result.exit_code = result.exit_code or errors.FAILED
    console.close(result, folder.path)


def _say_where_it_goes_on(result: RunReport, folder: RunFolder) -> None:
    """Where the last checkpoint could not be written, name the step of the one before."""
    last = _last_step(folder)
    if result.reason is not None and last != result.training.steps:
        result.reason.message += f"; it goes on from step {last}"


def _report_gone(session: Session, error: FolderGone) -> None:
    """End a run whose folder was taken away."""
    _fail(session.result, "folder", str(error))
    session.console.error(
        f"{error}\n  where:   {session.folder.path}\n"
        "  to do:   where it was moved, mpt train resume=PLACE goes on from its last checkpoint"
    )


def report_lost(session: Session, lost: str) -> None:
    """End a run that lacks a member of its team.

    Args:
        lost: what became of it.
    """
    _fail(session.result, "worker_lost", lost)
    step = _last_step(session.folder) if session.prepared.team.is_chief else None
    again = f"start all workers again, with {shell_word('resume', session.run_dir)}"
    where = f": it goes on from step {step}" if step is not None else ""
    session.console.error(f"{lost}\n  to do:   {again}{where}")


def _exit_code(result: RunReport) -> int:
    rule = result.reason.rule if result.reason is not None else None
    if rule == "signal" and "checkpoint" in result.artifacts:
        return errors.SAVED
    if rule == "input":
        return errors.INVALID
    return EXIT_CODES[result.status]


def _fail(result: RunReport, rule: str, message: str) -> None:
    result.status, result.reason = "failed", report.Reason(rule=rule, message=message)


def _list_checkpoints(result: RunReport, folder: RunFolder) -> None:
    """Name in the report what can be gone on from, and gone back to."""
    store = Checkpoints(folder.path)
    named = {"checkpoint": store.last(), "best_checkpoint": store.best()}
    if result.status == "diverged":
        named["last_good_checkpoint"] = store.last(healthy=True)
    result.artifacts |= {
        name: folder.relative(path) for name, path in named.items() if path is not None
    }


def _check_smoke(prepared: Prepared, result: RunReport, folder: RunFolder) -> None:
    """A smoke run's own invariants; one that is broken makes a finished run a failed one."""
    if not prepared.config.trainer.smoke_checks or not prepared.team.is_chief:
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


def out_of_memory(batch_size: int | None, error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    # TensorFlow's own first line may only say that a graph was at work.
    said = next((line for line in lines if "OOM" in line), lines[0])[:300]
    return (
        f"Out of memory at batch_size={batch_size}: {said}\n"
        "  to do:   a smaller batch_size, a smaller model, or a 16-bit precision.policy"
    )
