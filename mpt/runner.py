"""One run, from its configuration to its report."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import tensorflow as tf

from mpt import ending, errors, precision, replicas, report, reporting, resuming
from mpt.assembly import Assembly
from mpt.checkpoint import Checkpoints
from mpt.concurrency import Presence
from mpt.console import OF_A_MEMBER, Console
from mpt.data import Data, feeding
from mpt.data.errors import input_error
from mpt.errors import ConfigurationError
from mpt.execution import Execution, make_execution
from mpt.interrupts import Interrupts
from mpt.leaving import tidied
from mpt.preparation import Prepared, prepare
from mpt.report import RunReport
from mpt.reporting import Clock
from mpt.resuming import Ended, Resumption
from mpt.run_folder import RunFolder, is_run, writing
from mpt.schema import TrainConfig
from mpt.session import Session, opened_board
from mpt.stall import StallWatch
from mpt.together import REPORT_SECONDS, joined, later, translated
from mpt.variables import components
from mpt.workers import Team

IN_LOCK_STEP = ("completed", "stopped_early", "diverged")
"""Ends to which all members of a team come after the same step."""


@dataclass(frozen=True)
class Asked:
    """What a run is asked for: `run`'s arguments, `run_dir` absolute."""

    config: TrainConfig
    run_dir: Path
    command: list[str]
    allow: tuple[str, ...]
    composed: dict[str, str]
    steps: int | None
    batch_size: int | None
    batch_size_reason: str | None
    cpu_limit_mb: int | None


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        run_dir: of the chief's run.
        folder: of a run that goes on, locked; None: it is yet to be made.
        resumed: what goes on in it, or came to its end there; None: the run is a new one.
    """

    run_dir: Path
    folder: RunFolder | None
    resumed: Ended | Resumption | None


@dataclass(frozen=True)
class Built:
    """The parts of a run, before anything of it is written."""

    prepared: Prepared
    execution: Execution
    result: RunReport


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
    place = Path(os.path.abspath(run_dir))
    asked = Asked(
        config, place, command, allow, composed, steps, batch_size, batch_size_reason, cpu_limit_mb
    )
    clock = Clock(psutil.Process().create_time())
    with Presence() as presence, ExitStack() as stack:
        team = stack.enter_context(joined(config))
        console = Console(verbosity if team.is_chief else OF_A_MEMBER)
        stack.enter_context(tidied(console.stop))
        start = _where_it_starts(asked, team, stack)
        if isinstance(start.resumed, Ended):
            console.nothing_left(start.resumed.message, start.run_dir)
            team.part()
            return start.resumed.exit_code
        try:
            built = _built(asked, start, team, console, clock)
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            console.error(ending.out_of_memory(batch_size or config.batch_size, error))
            team.leave("out of memory")
            return errors.OUT_OF_MEMORY
        session = _opened(asked, start, built, console, clock, stack)
        with ending.failures_reported(session):
            _train(session, presence)
            if session.whole and team.is_chief:
                ending.save_model(session)
        ending.conclude(session, presence)
        _leave(session)
    return session.result.exit_code


def _where_it_starts(asked: Asked, team: Team, stack: ExitStack) -> Start:
    """The run's folder, where there is one, and what is to go on in it, as all members find it."""
    folder, resumed, run_dir = None, None, asked.run_dir
    if asked.steps is None and team.is_chief:
        folder, resumed = _reopened(run_dir, asked.config, stack)
    if team.size > 1:
        run_dir, resumed = _agreed(team, run_dir, resumed, asked.config)
    return Start(run_dir, folder, resumed)


def _built(asked: Asked, start: Start, team: Team, console: Console, clock: Clock) -> Built:
    """The parts of the run, tried by a batch and compared with the other members'."""
    resumed = start.resumed if isinstance(start.resumed, Resumption) else None
    chosen = resumed.run if resumed is not None else {}
    prepared = prepare(
        asked.config,
        asked.allow,
        team=team,
        batch_size=chosen.get("batch_size", asked.batch_size),
        cpu_limit_mb=asked.cpu_limit_mb,
        policy=chosen.get("policy"),
        trained=bool(chosen),
    )
    _compare(prepared)
    prepared.data = _fed(prepared)
    result = reporting.begin(prepared, start.run_dir, asked.command, clock)
    if asked.batch_size_reason is not None:
        result.execution.choice_reasons["batch_size"] = asked.batch_size_reason
    if resumed is not None:
        resumed.check(prepared.data.fingerprint, prepared.total_steps)
        result.warnings += resumed.warnings
    console.header(result, total_steps=prepared.total_steps)
    execution = make_execution(prepared, chosen.get("jit"))
    if asked.steps is not None:
        prepared = _beginning(prepared, asked.steps)
    return Built(prepared, execution, result)


def _opened(
    asked: Asked, start: Start, built: Built, console: Console, clock: Clock, stack: ExitStack
) -> Session:
    """The session in the run's folder, which is written to from here on.

    From here on a signal ends training, and what comes after it is brought to its end.
    """
    prepared, team, composed = built.prepared, built.prepared.team, asked.composed
    halt = [built.execution.loop.halt] if team.size == 1 else []  # members end after the same step
    interrupted = stack.enter_context(Interrupts(*halt))
    folder, resumed = start.folder, start.resumed
    assert not isinstance(resumed, Ended)
    if folder is None:
        folder = stack.enter_context(_new_folder(start.run_dir, team, stack))
    with writing(folder.path):
        new = resumed is None or not team.is_chief or resumed.begin_anew(folder)
        if new:  # first: it makes of the folder a run's, to be begun anew after a kill
            folder.write_hydra(**composed)
            if asked.steps is None:
                Checkpoints(folder.path).begin()
        board = opened_board(prepared, built.result, folder, composed, new=new)
        session = Session(
            prepared=prepared,
            execution=built.execution,
            result=built.result,
            folder=folder,
            board=stack.enter_context(board),
            console=console,
            clock=clock,
            composed=composed,
            resumed=resumed,
            interrupted=interrupted,
            whole=asked.steps is None,
            run_dir=start.run_dir,
        )
        folder.tell = session.tell
        if new:  # else nothing is written before the checkpoint is known to fit
            console.attach(folder.log)
            folder.write_json("precision.json", report.encode(built.result.precision))
    return session


def _leave(session: Session) -> None:
    """End together where all have come to the same end, with the chief's code; else say why not."""
    result, team = session.result, session.prepared.team
    rule = result.reason.rule if result.reason is not None else None
    if result.status in IN_LOCK_STEP or rule == "signal":
        result.exit_code = team.part(result.exit_code)[0]
    else:
        team.leave(result.reason.message if result.reason is not None else result.status)


def _fed(prepared: Prepared) -> Data:
    """The data, on their way to the only GPU that there is; several replicas share them out."""
    alone = prepared.strategy.num_replicas_in_sync == 1 and prepared.device.kind == "gpu"
    return feeding.fed(
        prepared.data,
        device="/GPU:0" if alone else None,
        first_cast=precision.first_cast(prepared.model),
        ahead=prepared.config.trainer.prefetch_batches,
    )


def _agreed(
    team: Team, run_dir: Path, resumed: Ended | Resumption | None, config: TrainConfig
) -> tuple[Path, Ended | Resumption | None]:
    """The chief's folder, and where the run in it stands, as each member finds it there.

    Raises:
        ConfigurationError: a member does not find there what the chief has found.
    """
    ended = [resumed.message, resumed.exit_code] if isinstance(resumed, Ended) else None
    step = resumed.found.step if isinstance(resumed, Resumption) and resumed.found else None
    chief = team.exchange({"run_dir": str(run_dir), "ended": ended, "step": step})[0]
    run_dir = Path(chief["run_dir"])
    if chief["ended"] is not None:
        message, code = chief["ended"]
        return run_dir, Ended(code, message)
    if not team.is_chief:
        resumed = resuming.find(run_dir, config) if chief["step"] is not None else None
        step = resumed.found.step if isinstance(resumed, Resumption) and resumed.found else None
    if team.any(step != chief["step"])[0]:
        raise ConfigurationError(
            "Not all workers find the checkpoint that the run is to go on from, that of step "
            f"{chief['step']}.",
            where=f"run_dir={run_dir}",
            remedy="put the run's folder on storage that all workers share",
        )
    return run_dir, resumed


def _compare(prepared: Prepared) -> None:
    """Refuse to train on other data, or from other weights, than the other members.

    Raises:
        ConfigurationError: they differ.
    """
    team = prepared.team
    if team.size == 1:
        return
    choice, data = prepared.choice, prepared.data
    team.same("What precision.policy comes to", [choice.policy, choice.tf32], "precision.policy")
    team.same("What loss_scale.mode comes to", prepared.optimizer.mode, "loss_scale.mode")
    team.same("The layers' precision", prepared.table, "precision")
    team.same("The data", data.fingerprint, "dataset")
    team.same(
        "The number of batches",
        [prepared.total_steps, data.steps_per_epoch, data.validation_batches],
        "dataset",
    )
    weights = (copies[0].numpy() for copies in components(prepared.model.trainable_variables))
    team.same("What the weights begin with", replicas.digest(weights), "init_from")


def _new_folder(run_dir: Path, team: Team, stack: ExitStack) -> RunFolder:
    """The run's folder; at a member that is not the chief one that is gone after the run."""
    if team.is_chief:
        return RunFolder.create(run_dir)
    own = tempfile.mkdtemp(prefix="mpt-worker-")
    stack.enter_context(tidied(lambda: shutil.rmtree(own, ignore_errors=True)))
    return RunFolder.create(own)


def _reopened(
    run_dir: Path, config: TrainConfig, stack: ExitStack
) -> tuple[RunFolder | None, Ended | Resumption | None]:
    """The folder of the run that is to go on, locked, and where that stands; or no folder."""
    if not is_run(run_dir):
        return None, None
    folder = RunFolder.reopen(run_dir)
    stack.enter_context(tidied(folder.close))
    return folder, resuming.find(run_dir, config)


def _beginning(prepared: Prepared, steps: int) -> Prepared:
    """The run's first `steps`; what was built for the whole run, the schedules too, stays."""
    return replace(
        prepared,
        total_steps=min(steps, prepared.total_steps),
        data=replace(prepared.data, validation=None, validation_batches=0),
        callbacks=[],
    )


def _train(session: Session, presence: Presence) -> None:
    """Train, and put what came of it into the report."""
    assembly, data, resumed = Assembly(session), session.prepared.data, session.resumed
    training, team, left = assembly.training, session.prepared.team, threading.Event()

    def end(tell: Callable[[], None]) -> None:
        """End the process from a thread: the main one is inside TensorFlow, out of reach."""
        if left.is_set():
            return
        try:
            assembly.describe()
            tell()
            ending.conclude(session, presence)
        finally:
            os._exit(session.result.exit_code or errors.FAILED)

    def stalled(waited: float) -> None:
        awaited = training.awaited() or ("training", 0)
        team.leave("its data did not come")
        end(lambda: ending.report_stall(session, awaited, waited))

    team.when_lost(
        lambda lost: later(
            team, REPORT_SECONDS, lambda: end(lambda: ending.report_lost(session, lost))
        )
    )
    if resumed is not None and resumed.found is not None:
        session.result.training.resumed_from_step = resumed.found.step
        session.console.note(f"It goes on from step {resumed.found.step}: {resumed.found.path}")
    try:
        with StallWatch(data.stall_seconds, training.awaited, stalled):
            training.run(resumed.state if resumed is not None else None)
    except (tf.errors.OpError, StopIteration) as error:
        with translated(team):
            raise input_error(error, data) or error from error
    finally:
        left.set()
        team.unwatch()
        assembly.describe()
