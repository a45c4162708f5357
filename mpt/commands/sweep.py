"""A sweep as its own process sees it: the plan before its jobs, the outcomes after them."""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpt import composition, errors, postmortem, report, yaml_files
from mpt.commands.outcomes import (
    FINAL,
    JOBS,
    NOT_RUN,
    PLAN,
    RUNNING,
    SWEEP,
    Outcome,
    check_resumable,
    leaves,
    note,
    outcome_of,
    plan_of,
    read_json,
    read_report,
    table,
    try_to_write,
    write_sweep,
)
from mpt.commands.sweep_task import wait_while_at_work
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.launching import Stop, launcher_of
from mpt.printable import path_text, shell_word
from mpt.run_folder import REPORT, RunFolder


class Sweep:
    """The sweep as its own process sees it: the plan before, the outcomes after. Use it in `with`.

    Args:
        resumed: the folder of an earlier sweep, which is to be completed.

    Attributes:
        started: its jobs are planned.
        ran, unfinished: once it is closed: whether any job ran, and whether all came to their end.
    """

    def __init__(self, command: list[str], resumed: Path | None = None):
        self.command = command
        self.resumed = resumed
        self.folder: Path | None = None
        self.stop: Stop | None = None
        self.started = False
        self.ran = self.unfinished = False
        self._started_at = report.timestamp(time.time())
        if resumed is not None:
            check_resumable(resumed)
        earlier = plan_of(resumed) if resumed is not None else None
        self._jobs: list[list[str]] = earlier["jobs"] if earlier else []
        self._lock: int | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def plan(
        self, config: Any, loader: Any, jobs: Sequence[Sequence[str]], first_index: int
    ) -> None:
        """Note the jobs that a launcher is about to get.

        Raises:
            ConfigurationError: the sweep to be resumed has other jobs, or is at work.
        """
        from omegaconf import open_dict

        if not jobs:
            raise ConfigurationError(
                "The sweep has no jobs.", where="command line", remedy="name a value, as in seed=0"
            )
        if self.folder is None:
            self.folder = Path(str(config.hydra.sweep.dir)).resolve()
            self._take(launcher_of(config.hydra))
            # For workers, which compose anew: their time and their folder are others.
            fixed = composition.assign("hydra.sweep.dir", self.folder)
            with open_dict(config):
                config.hydra.sweep.dir = str(self.folder)
                config.hydra.overrides.hydra.append(fixed)
        for index, job in enumerate(jobs, start=first_index):
            if self.resumed is not None:
                self._check_same(index, loader, config, list(job))
        # A resumed sweep may have had more.
        self._jobs[first_index : first_index + len(jobs)] = [list(map(str, job)) for job in jobs]
        content = {"command": self.command, "started_at": self._started_at, "jobs": self._jobs}
        RunFolder(self.folder / JOBS).write_json(PLAN, content)
        self.started = True

    def _take(self, launcher: str) -> None:
        """Lock the sweep's folder; a second process must not run its jobs too."""
        assert self.folder is not None
        if self.resumed is None and (self.folder / SWEEP).exists():
            raise ConfigurationError(
                "There is a sweep in this folder already.",
                where=f"hydra.sweep.dir={self.folder}",
                remedy=f"complete it by {shell_word('resume', self.folder)}, or name another one",
            )
        jobs = self.folder / JOBS
        jobs.mkdir(parents=True, exist_ok=True)
        try:  # not through a link to another file, and without waiting for a pipe
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            self._lock = os.open(jobs / "lock", flags, 0o666)
        except OSError as error:
            raise ConfigurationError(
                f"The sweep cannot be locked: {error.strerror}.", where=str(jobs / "lock")
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                "Another process runs this sweep.", where=str(self.folder)
            ) from error
        stop = Stop(jobs / "stop")
        stop.path.unlink(missing_ok=True)
        self.stop = None if launcher == "basic" else stop

    def _check_same(self, index: int, loader: Any, config: Any, overrides: list[str]) -> None:
        """Whether the earlier sweep's job of this number is this one."""
        assert self.folder is not None
        noted = outcome_of(self.folder, index)
        content = read_json(self.folder / noted.folder / REPORT) if noted else None
        kept = (*FINAL, "interrupted")
        if noted is None or noted.status not in kept or not isinstance(content, dict):
            return
        composed = loader.load_sweep_config(config, overrides)
        typed = asdict(to_config(_without_hydra(composed)))
        if report.config_hash(typed) != content.get("config_hash"):
            raise ConfigurationError(
                f"Job {index} of the sweep has another configuration: "
                f"it was {' '.join(noted.overrides)}, and is {' '.join(overrides)} now.",
                where=f"resume={self.resumed}",
                remedy="give the sweep's own command (sweep.json has it) and add resume=PATH",
            )

    def give_up(self) -> None:
        """Ask the jobs that are left to end, as their launcher has, and `close`."""
        if self.stop is not None:
            self.stop.set()
        self.close()
        if self.folder is not None and (self.folder / SWEEP).exists():
            word = shell_word("resume", self.folder)
            print(f"  to do:   {word} runs what is missing", file=sys.stderr)

    def close(self, *, patient: bool = True) -> int:
        """Print the table of outcomes on stdout.

        Args:
            patient: wait for runs that are at work on this machine, though their workers are gone.

        Returns:
            0 if all jobs ended with 0, the common code if all failures agree, else 1.
        """
        folder = self.folder
        if folder is None:
            return errors.OK
        outcomes = [
            self._settled(outcome_of(folder, index) or Outcome(index, job, str(index)), patient)
            for index, job in enumerate(self._jobs)
        ]
        if all(outcome.status in ("invalid", NOT_RUN) for outcome in outcomes):
            if self.resumed is None:
                self._leave_nothing()
        else:
            self.ran = True
            self.unfinished = any(outcome.status not in FINAL for outcome in outcomes)
            try_to_write(lambda: write_sweep(folder, outcomes))
            for line in table(outcomes):
                print(line)
            print(f"sweep: {path_text(folder)}")
        codes = {outcome.exit_code for outcome in outcomes} - {errors.OK}
        if not codes:
            return errors.OK
        (code, *others) = codes
        return errors.FAILED if others or code is None or code < 0 else code

    def _leave_nothing(self) -> None:
        """Remove what this sweep's own process wrote, for a sweep of which nothing ran."""
        assert self.folder is not None
        shutil.rmtree(self.folder / JOBS, ignore_errors=True)

    def _settled(self, outcome: Outcome, patient: bool) -> Outcome:
        """What became of a job, where the worker that waited for it ended before it could say."""
        assert self.folder is not None
        folder = self.folder / outcome.folder
        if outcome.status not in (NOT_RUN, RUNNING):
            return outcome
        if patient:
            wait_while_at_work(folder)
        code = None
        if leaves(self.folder, folder):
            pass  # no job of ours ran there
        elif (folder / REPORT).exists():
            content = read_json(folder / REPORT)
            code = content.get("exit_code") if isinstance(content, dict) else None
            code = code if isinstance(code, int) else errors.FAILED
            code = code if code <= 128 or code == errors.INTERRUPTED else 128 - code
        elif (folder / ".hydra" / "config.yaml").exists():
            code = -signal.SIGKILL
            try_to_write(lambda: self._bury(folder))
        if code is None:
            outcome.status = NOT_RUN
        else:
            read_report(outcome, folder, code)
        try_to_write(lambda: note(Path(str(self.folder)), outcome))
        return outcome

    def _bury(self, folder: Path) -> None:
        config = to_config(yaml_files.plain(folder / ".hydra" / "config.yaml"))
        started = folder.stat().st_ctime
        postmortem.write(
            folder, config, command=self.command, exit_code=-signal.SIGKILL, started=started
        )


def _without_hydra(composed: Any) -> Any:
    from omegaconf import open_dict

    with open_dict(composed):
        composed.run_dir = "."
        del composed["hydra"]
    return composed
