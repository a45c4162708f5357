"""A sweep: its jobs, each in a process of its own, and what became of them.

    SWEEP/0, 1, ...           the runs' folders
    SWEEP/sweep.json          the jobs and their outcomes, brought up to date as they end
    SWEEP/.jobs/plan.json     the jobs to come
    SWEEP/.jobs/0.json, ...   one job's outcome, written by the process that waited for it
    SWEEP/.jobs/stop          asks the jobs to end
    SWEEP/.jobs/replaced/     folders of unfinished runs that `resume` ran again

A launcher may run a job in another process or on another machine. So a job's outcome travels by
its file, and nothing else needs to come back.
"""

import fcntl
import functools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from mpt import composition, errors, isolation, postmortem, report
from mpt.batch_search import SearchFailed, settle
from mpt.commands import Options
from mpt.commands.jobs import job_of
from mpt.concurrency import own_gpu
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.isolation import Job, spawn
from mpt.launching import Stop, leave_interrupts_to_the_sweep
from mpt.run_folder import RunFolder

SCHEMA_VERSION = 1
SWEEP, JOBS = "sweep.json", ".jobs"
NOT_RUN = "not_run"
# A job of such a status would end so again.
FINAL = ("completed", "stopped_early", "diverged")
STATUS = {
    errors.OK: "completed",
    errors.INVALID: "invalid",
    errors.DIVERGED: "diverged",
    errors.OUT_OF_MEMORY: "oom",
    errors.INTERRUPTED: "interrupted",
}

_AT_WORK = threading.Lock()  # held while a worker has a job


@dataclass
class Outcome:
    """What became of one job.

    Attributes:
        index: its number in the sweep.
        overrides: what sets it apart.
        folder: name of its folder.
        exit_code: the run's; negative where a signal ended it; None where it did not run.
        status: as in its report.json; `invalid` where its configuration or input is wrong,
            `not_run` where the sweep ended before it.
        best: value of the monitored metric at its best step.
        examples_per_second: steady-state throughput.
    """

    index: int
    overrides: list[str]
    folder: str
    exit_code: int | None = None
    status: str = NOT_RUN
    monitor: str | None = None
    best: float | str | None = None
    examples_per_second: float | None = None


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
        composition.register()  # in a worker, before Hydra composes the job there

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
        run_dir, varied, index = _place()
        # joblib with n_jobs=1 starts no worker.
        basic = _launcher() in (None, "basic")
        stop = None if basic else Stop(run_dir.parent / JOBS / "stop")
        outcome = Outcome(index, varied, run_dir.name)
        if elsewhere:
            # It may be its second run: Ray lost its worker, or Slurm had it make room.
            _wait_while_at_work(run_dir)
        if (self.resuming or elsewhere) and (kept := _final_outcome(run_dir, outcome)):
            self._say(f"job {index}: {' '.join(varied)}: {kept.status} before")
            _note(run_dir.parent, kept)
            return _objective(kept)
        if stop is not None and stop():
            _remove_if_empty(run_dir)
            return None
        self._say(f"job {index}: {' '.join(varied)}")
        try:
            self._run(config, run_dir, outcome, stop)
        finally:
            _remove_if_empty(run_dir)
            _note(run_dir.parent, outcome)
        return _objective(outcome)

    def _run(self, config: Any, run_dir: Path, outcome: Outcome, stop: Stop | None) -> None:
        try:
            check_folder(outcome.overrides)
            config.resume = None  # the sweep's, not the run's
            job = job_of(
                config, self.flags, self.overrides, str(run_dir), self.command, self.options
            )
        except ConfigurationError as error:
            isolation.report(error, debug=self.options.debug)
            outcome.exit_code, outcome.status = error.exit_code, "invalid"
            return
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
        except KeyboardInterrupt:
            outcome.exit_code = errors.INTERRUPTED
            if stop is None:
                raise
        finally:
            code = errors.INTERRUPTED if outcome.exit_code is None else outcome.exit_code
            folder = Path(job.run_dir)
            if code not in (errors.OK, errors.INVALID) and not (folder / "report.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                postmortem.write(
                    folder,
                    to_config(job.config),
                    command=job.command,
                    exit_code=code,
                    started=started,
                    oom_suspected=oom(),
                    message=said,
                )
            _read_report(outcome, folder, code)

    def _say(self, text: str) -> None:
        if self.options.verbosity >= 0:
            print(text, file=sys.stderr)


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


def _place() -> tuple[Path, list[str], int]:
    """The folder that Hydra gave this job, what sets the job apart, and its number."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra = HydraConfig.get()
    varied = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(varied, list)
    kept = [str(each) for each in varied if not _sets(str(each), "resume")]
    return Path(hydra.runtime.output_dir), kept, int(hydra.job.num)


def _launcher() -> str | None:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get().runtime.choices.get("hydra/launcher")


def _sets(override: str, key: str) -> bool:
    return override.lstrip("+").startswith(f"{key}=")


def check_folder(overrides: list[str]) -> None:
    """Refuse a folder of one run for many."""
    if any(_sets(override, "run_dir") for override in overrides):
        raise ConfigurationError(
            "run_dir is the folder of one run, and a sweep has many",
            where="run_dir",
            remedy="choose the sweep's folder by hydra.sweep.dir=PATH",
        )


def check_sweep_dir(overrides: list[str]) -> None:
    """Refuse a second folder beside the one that is resumed."""
    if any(_sets(override, "hydra.sweep.dir") for override in overrides):
        raise ConfigurationError(
            "resume names the sweep's folder; hydra.sweep.dir names another.",
            where="hydra.sweep.dir",
            remedy="leave hydra.sweep.dir out",
        )


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes a job's folder before the job begins."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _objective(outcome: Outcome) -> float | None:
    return outcome.best if isinstance(outcome.best, float) else None


def _read_report(outcome: Outcome, folder: Path, code: int) -> None:
    """What the run's report says of it."""
    outcome.exit_code, outcome.status = code, STATUS.get(code, "killed" if code < 0 else "failed")
    try:
        content = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):  # its configuration or input was wrong
        return
    outcome.status = content.get("status") or outcome.status
    best = (content.get("metrics") or {}).get("best") or {}
    outcome.monitor, outcome.best = best.get("name"), best.get("value")
    throughput = content.get("throughput") or {}
    outcome.examples_per_second = throughput.get("examples_per_second")


def _final_outcome(run_dir: Path, outcome: Outcome) -> Outcome | None:
    """The outcome of a run that ended so before; None where it must run, in an empty folder."""
    note = _outcome_of(run_dir.parent, outcome.index)
    if note is not None and note.status in FINAL and (run_dir / "report.json").exists():
        return note
    if run_dir.is_dir() and any(run_dir.iterdir()):
        aside = run_dir.parent / JOBS / "replaced" / f"{run_dir.name}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        run_dir.rename(aside)
    return None


def _wait_while_at_work(run_dir: Path) -> None:
    """Let a run save what it has, whose worker is gone."""
    while run_dir.is_dir() and isolation.at_work(run_dir):
        time.sleep(isolation.POLL_SECONDS)


def _outcome_of(folder: Path, index: int) -> Outcome | None:
    content = _read_json(folder / JOBS / f"{index}.json")
    return None if content is None else Outcome(**content)


def _note(folder: Path, outcome: Outcome) -> None:
    """Write down a job's outcome, and bring sweep.json up to date."""
    RunFolder(folder / JOBS).write_json(f"{outcome.index}.json", asdict(outcome))
    _write_sweep(folder)


def _write_sweep(folder: Path) -> list[Outcome]:
    """Write sweep.json from the plan and the outcomes so far; the outcomes."""
    plan = _read_json(folder / JOBS / "plan.json") or {"jobs": []}
    outcomes = []
    for index, overrides in enumerate(plan["jobs"]):
        noted = _outcome_of(folder, index)
        outcomes.append(noted or Outcome(index, overrides, str(index)))
    if any(outcome.status not in ("invalid", NOT_RUN) for outcome in outcomes):
        content = {
            "schema_version": SCHEMA_VERSION,
            "command": plan["command"],
            "started_at": plan["started_at"],
            "updated_at": report.timestamp(time.time()),
            "jobs": [asdict(outcome) for outcome in outcomes],
        }
        RunFolder(folder).write_json(SWEEP, content)
    return outcomes


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


class Sweep:
    """The sweep as its own process sees it: the plan before, the outcomes after. Use it in `with`.

    Args:
        resumed: the folder of an earlier sweep, which is to be completed.
    """

    def __init__(self, command: list[str], resumed: Path | None = None):
        self.command = command
        self.resumed = resumed
        self.folder: Path | None = None
        self.stop: Stop | None = None
        self.started = False
        self._started_at = report.timestamp(time.time())
        self._jobs: list[list[str]] = []
        self._lock: IO[str] | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def plan(
        self, config: Any, loader: Any, jobs: Sequence[Sequence[str]], first_index: int
    ) -> None:
        """Note the jobs that a launcher is about to get.

        Raises:
            ConfigurationError: the sweep to be resumed has other jobs, or is at work.
            Exception: whatever Hydra says of an override that no job can have.
        """
        from omegaconf import open_dict

        if self.folder is None:
            self.folder = Path(str(config.hydra.sweep.dir)).resolve()
            self._take(config.hydra.runtime.choices.get("hydra/launcher"))
            # For workers, which compose anew: their time and their folder are others.
            fixed = f"hydra.sweep.dir='{self.folder}'"
            with open_dict(config):
                config.hydra.sweep.dir = str(self.folder)
                config.hydra.overrides.hydra.append(fixed)
        varied = [[str(o) for o in job if not _sets(str(o), "resume")] for job in jobs]
        for index, each in enumerate(varied, start=first_index):
            if self.resumed is not None:
                self._check_same(index, each, loader, config, list(jobs[index - first_index]))
        if self.resumed is None:
            try:
                _compose_each_word(loader, config, jobs)
            except Exception:
                self._leave_nothing()
                raise
        self._jobs[first_index:] = varied
        content = {"command": self.command, "started_at": self._started_at, "jobs": self._jobs}
        RunFolder(self.folder / JOBS).write_json("plan.json", content)
        self.started = True

    def _take(self, launcher: str | None) -> None:
        """Lock the sweep's folder; a second process must not run its jobs too."""
        assert self.folder is not None
        if self.resumed is None and (self.folder / SWEEP).exists():
            raise ConfigurationError(
                "There is a sweep in this folder already.",
                where=f"hydra.sweep.dir={self.folder}",
                remedy=f"complete it by resume={self.folder}, or name another folder",
            )
        jobs = self.folder / JOBS
        jobs.mkdir(parents=True, exist_ok=True)
        self._lock = open(jobs / "lock", "w")  # noqa: SIM115, held while this process lives
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                "Another process runs this sweep.", where=str(self.folder)
            ) from error
        stop = Stop(jobs / "stop")
        stop.path.unlink(missing_ok=True)
        self.stop = None if launcher in (None, "basic") else stop

    def _check_same(
        self, index: int, overrides: list[str], loader: Any, config: Any, words: list[str]
    ) -> None:
        """Whether the earlier sweep's job of this number is this one."""
        assert self.folder is not None
        noted = _outcome_of(self.folder, index)
        content = _read_json(self.folder / str(index) / "report.json")
        if noted is None or noted.status not in FINAL or not isinstance(content, dict):
            return
        composed = loader.load_sweep_config(config, words)
        typed = asdict(to_config(_without_hydra(composed)))
        if report.config_hash({**typed, "resume": None}) != content.get("config_hash"):
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
            print(f"  to do:   resume={self.folder} runs what is missing", file=sys.stderr)

    def close(self, *, patient: bool = True) -> int:
        """Print the table of outcomes on stdout.

        Args:
            patient: wait for runs that are at work on this machine, though their workers are gone.

        Returns:
            0 if all jobs ended with 0, the common code if all failures agree, else 1.
        """
        if self.folder is None:
            return errors.OK
        for index, overrides in enumerate(self._jobs):
            if _outcome_of(self.folder, index) is None:
                if patient:
                    _wait_while_at_work(self.folder / str(index))
                self._find_lost(Outcome(index, overrides, str(index)))
        outcomes = _write_sweep(self.folder)
        if not (self.folder / SWEEP).exists():  # nothing ran
            self._leave_nothing()
        else:
            for line in table(outcomes):
                print(line)
            print(f"sweep: {self.folder}")
        codes = {outcome.exit_code for outcome in outcomes} - {errors.OK}
        if not codes:
            return errors.OK
        (code, *others) = codes
        return errors.FAILED if others or code is None or code < 0 else code

    def _leave_nothing(self) -> None:
        """Remove what this sweep's own process wrote, for a sweep of which nothing ran."""
        assert self.folder is not None
        shutil.rmtree(self.folder / JOBS, ignore_errors=True)

    def _find_lost(self, outcome: Outcome) -> None:
        """Note what became of a job whose worker ended before it could."""
        assert self.folder is not None
        folder = self.folder / outcome.folder
        if not (folder / ".hydra" / "config.yaml").exists():
            return
        if not (folder / "report.json").exists():
            from omegaconf import OmegaConf

            config = to_config(OmegaConf.load(folder / ".hydra" / "config.yaml"))
            started = folder.stat().st_ctime
            postmortem.write(
                folder, config, command=self.command, exit_code=-signal.SIGKILL, started=started
            )
        content = _read_json(folder / "report.json") or {}
        _read_report(outcome, folder, int(content.get("exit_code", errors.FAILED)))
        _note(self.folder, outcome)


def _without_hydra(composed: Any) -> Any:
    from omegaconf import open_dict

    with open_dict(composed):
        composed.run_dir = "."
        del composed["hydra"]
    return composed


def _compose_each_word(loader: Any, config: Any, jobs: Sequence[Sequence[str]]) -> None:
    """Compose jobs until every override was in one: a typo must show before anything has run.

    All combinations would take a quarter of a second each.
    """
    seen: set[str] = set()
    for job in jobs:
        if not seen.issuperset(job):
            loader.load_sweep_config(config, list(job))
            seen.update(job)


def resumed_folder(overrides: list[str]) -> Path | None:
    """The folder that `resume=` names, where it names one.

    Raises:
        ConfigurationError: it is not a sweep's.
    """
    named = [o.partition("=")[2] for o in overrides if _sets(o, "resume")]
    if not named or named[-1] in ("null", "None", ""):
        return None
    folder = Path(named[-1].strip("'\""))
    if not (folder / SWEEP).is_file():
        raise ConfigurationError(
            "There is no sweep to resume: no sweep.json in this folder.",
            where=f"resume={folder}",
            remedy="name the folder that the sweep's last line gave, sweeps/DATE/TIME",
        )
    return folder


def table(outcomes: list[Outcome]) -> list[str]:
    """The outcomes as lines of text, in columns, with the overrides that set the jobs apart."""
    common = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    monitor = next((outcome.monitor for outcome in outcomes if outcome.monitor), "best")
    rows = [["job", "overrides", "status", "exit", monitor, "examples/s"]]
    for outcome in outcomes:
        rows.append(
            [
                outcome.folder,
                " ".join(o for o in outcome.overrides if o not in common) or "-",
                outcome.status.replace("_", " "),
                "-" if outcome.exit_code is None else str(outcome.exit_code),
                _number(outcome.best, ".4f"),
                _number(outcome.examples_per_second, ".0f"),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _number(value: float | str | None, form: str) -> str:
    if isinstance(value, int | float):
        return format(value, form)
    return value if value is not None else "-"
