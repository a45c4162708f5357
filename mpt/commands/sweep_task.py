"""One job of a sweep, in whichever process a launcher runs it."""

import functools
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpt import composition, errors, guard, isolation, postmortem, resuming
from mpt.batch_search import SearchFailed, settle
from mpt.commands import Options
from mpt.commands.jobs import job_of
from mpt.commands.outcomes import (
    FINAL,
    JOBS,
    RUNNING,
    Outcome,
    leaves,
    note,
    outcome_of,
    read_report,
    try_to_write,
)
from mpt.concurrency import own_gpu
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.isolation import Job, spawn
from mpt.launching import Stop, launcher_of, leave_interrupts_to_the_sweep
from mpt.printable import one_line, path_text, print_error
from mpt.run_folder import REPORT

_AT_WORK = threading.Lock()  # held while a worker has a job


@dataclass
class SweepTask:
    """What a launcher calls with each job's configuration, in whichever process it chose.

    Attributes:
        command: the command line, for the reports.
        flags, overrides: as `composition.arrange` gives them.
        root: the sweep's own process, as `isolation.this_process` tells it.
        resuming: jobs that ended before keep their outcomes.
        cwd: the folder in which the sweep was started.
    """

    command: list[str]
    flags: list[str]
    overrides: list[str]
    options: Options
    root: dict[str, Any]
    resuming: bool = False
    cwd: str = field(default_factory=os.getcwd)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # In a worker, before Hydra composes the job there.
        composition.register()
        guard.install(self.options.allow)

    def __call__(self, config: Any) -> float | None:
        """Run the job, and note its outcome.

        Returns:
            The monitored metric's best value, for sweepers that look for better configurations.
        """
        if os.getpid() == self.root["pid"]:
            return self._do(config, elsewhere=False)
        os.chdir(self.cwd)
        leave_interrupts_to_the_sweep()
        _end_with_the_sweep(self.root["pid"], self.root["host"], self.root["created"])
        with _AT_WORK:
            return self._do(config, elsewhere=True)

    def _do(self, config: Any, *, elsewhere: bool) -> float | None:
        folder, run_dir, varied, index, launcher = _place()
        # Not `elsewhere`: joblib with n_jobs=1 starts no worker.
        stop = None if launcher == "basic" else Stop(folder / JOBS / "stop")
        if leaves(folder, run_dir):  # by a link, say, in a folder that is resumed
            self._refuse(folder, run_dir, Outcome(index, varied, str(index)))
            return None
        outcome = Outcome(index, varied, os.path.relpath(run_dir, folder), status=RUNNING)
        if elsewhere:
            # It may be its second run: Ray lost its worker, or Slurm had it make room.
            wait_while_at_work(run_dir)
        if (self.resuming or elsewhere) and (kept := _final_outcome(folder, outcome)):
            self._say(f"job {index}: {' '.join(varied)}: {kept.status} before")
            note(folder, kept)
            return _objective(kept)
        if stop is not None and stop():
            _remove_if_empty(run_dir)
            return None
        self._say(f"job {index}: {' '.join(varied)}")
        try:
            note(folder, outcome)
            again = self.resuming or elsewhere
            self._run(config, folder, run_dir, outcome, stop, again=again)
        except OSError as error:  # such as a full disk
            print(f"error: job {index} left no report: {error.strerror}", file=sys.stderr)
            outcome.exit_code, outcome.status = errors.FAILED, "failed"
        finally:
            _remove_if_empty(run_dir)
            try_to_write(lambda: note(folder, outcome))
        return _objective(outcome)

    def _run(
        self,
        config: Any,
        folder: Path,
        run_dir: Path,
        outcome: Outcome,
        stop: Stop | None,
        *,
        again: bool,
    ) -> None:
        try:
            check_folder(outcome.overrides)
            job = job_of(
                config, self.flags, self.overrides, str(run_dir), self.command, self.options
            )
            if job.config["device"]["strategy"] == "multi_worker":
                raise ConfigurationError(
                    "A sweep's jobs do not train over several workers.",
                    where="device.strategy",
                    remedy="start them one by one, each on all workers",
                )
        except ConfigurationError as error:
            print_error(error, debug=self.options.debug)
            outcome.exit_code, outcome.status = error.exit_code, "invalid"
            return
        if again:
            _make_room(folder, job, outcome.index)
        if stop is None:
            self._spawn(job, outcome, {}, stop)
            return
        job.root, job.label = self.root, f"[{outcome.index}] "
        device = job.config["device"]
        if device["accelerator"] == "cpu" or device["strategy"] != "none":
            self._spawn(job, outcome, {}, stop)
        else:
            with own_gpu(stop) as environment:
                self._spawn(job, outcome, environment, stop)

    def _spawn(
        self, job: Job, outcome: Outcome, environment: dict[str, str], stop: Stop | None
    ) -> None:
        started, oom, said = time.time(), postmortem.oom_kills(), None
        try:
            job = settle(job, environment=environment, stopped=stop)
            outcome.exit_code = spawn(job, environment=environment, stopped=stop)
        except SearchFailed as failure:
            said, outcome.exit_code = str(failure), failure.exit_code
            print(f"error: {failure}", file=sys.stderr)
        except KeyboardInterrupt as interrupt:
            outcome.exit_code = getattr(interrupt, "code", errors.INTERRUPTED)
            if stop is None:
                raise
        finally:
            code = errors.INTERRUPTED if outcome.exit_code is None else outcome.exit_code
            postmortem.write(
                Path(job.run_dir),
                to_config(job.config),
                command=job.command,
                exit_code=code,
                started=started,
                oom_suspected=oom(),
                message=said,
            )
            read_report(outcome, Path(job.run_dir), code)

    def _refuse(self, folder: Path, run_dir: Path, outcome: Outcome) -> None:
        error = ConfigurationError(
            f"The folder of job {outcome.index} lies outside of the sweep's.", where=str(run_dir)
        )
        print_error(error, debug=self.options.debug)
        _remove_if_empty(run_dir)
        outcome.exit_code, outcome.status = error.exit_code, "invalid"
        note(folder, outcome)

    def _say(self, text: str) -> None:
        if self.options.verbosity >= 0:
            print(one_line(text), file=sys.stderr)


@functools.cache
def _end_with_the_sweep(pid: int, host: str, created: float) -> None:
    """Have a launcher's worker end, after its present job, once the sweep's own process is gone.

    One of joblib's would stay for another five minutes.
    """

    def end() -> None:
        _AT_WORK.acquire()
        os._exit(errors.FAILED)

    root = {"pid": pid, "host": host, "created": created}
    isolation.once(lambda: isolation.is_gone(root), end)


def _place() -> tuple[Path, Path, list[str], int, str]:
    """The sweep's folder, the job's in it, what sets the job apart, its number, the launcher."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    varied = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(varied, list)
    folder = Path(os.path.abspath(hydra.sweep.dir))
    run_dir, index = Path(hydra.runtime.output_dir), int(hydra.job.num)
    return folder, run_dir, [str(o) for o in varied], index, launcher_of(hydra)


def sets(override: str, key: str) -> bool:
    """Whether `override` is one of `key`."""
    return override.lstrip("+").startswith(f"{key}=")


def check_folder(overrides: list[str]) -> None:
    """Refuse a folder of one run for many."""
    if any(sets(override, "run_dir") for override in overrides):
        raise ConfigurationError(
            "run_dir is the folder of one run, and a sweep has many",
            where="run_dir",
            remedy="choose the sweep's folder by hydra.sweep.dir=PATH",
        )


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes a job's folder before the job begins."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _objective(outcome: Outcome) -> float | None:
    return outcome.best if isinstance(outcome.best, float) else None


def _final_outcome(folder: Path, outcome: Outcome) -> Outcome | None:
    """The outcome of a run that ended so before; None where it must run."""
    noted = outcome_of(folder, outcome.index)
    if noted is not None and noted.status in FINAL and (folder / outcome.folder / REPORT).exists():
        return noted
    return None


def _make_room(folder: Path, job: Job, index: int) -> None:
    """Move an earlier run of the job aside, unless it can go on from a checkpoint."""
    run_dir = Path(job.run_dir)
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    try:
        found = resuming.find(run_dir, to_config(job.config))
    except ConfigurationError:  # its configuration was another one, or its checkpoints are broken
        found = None
    if isinstance(found, resuming.Ended):  # and was not noted: its process was killed just then
        return
    if isinstance(found, resuming.Resumption) and found.found is not None:
        return
    aside = folder / JOBS / "replaced" / f"{index}-{time.time_ns()}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    run_dir.rename(aside)
    print(f"job {index}: what ran there before is put aside: {path_text(aside)}", file=sys.stderr)


def wait_while_at_work(run_dir: Path) -> None:
    """Let a run save what it has, whose worker is gone."""
    while run_dir.is_dir() and isolation.at_work(run_dir):
        time.sleep(isolation.POLL_SECONDS)
