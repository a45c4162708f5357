"""What became of a sweep's jobs: a file each, sweep.json, and a table.

    SWEEP/0, 1, ...           the runs' folders
    SWEEP/sweep.json          the jobs and their outcomes, brought up to date as they end
    SWEEP/.jobs/plan.json     the jobs to come
    SWEEP/.jobs/0.json, ...   one job's outcome, written by the process that waited for it
    SWEEP/.jobs/stop          asks the jobs to end
    SWEEP/.jobs/replaced/     folders of unfinished runs that `resume` ran again

A launcher may run a job in another process or on another machine. So a job's outcome travels by
its file, and nothing else needs to come back.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpt import errors, report
from mpt.errors import ConfigurationError
from mpt.printable import columns, one_line
from mpt.run_folder import REPORT, RunFolder

SCHEMA_VERSION = 1
SWEEP, JOBS, PLAN = "sweep.json", ".jobs", "plan.json"
MULTIRUN = "multirun.yaml"  # Hydra's
LARGEST_BYTES = 2**26
NOT_RUN, RUNNING = "not_run", "running"
# A job of such a status would end so again.
FINAL = ("completed", "stopped_early", "diverged")
STATUS = {
    errors.OK: "completed",
    errors.INVALID: "invalid",
    errors.DIVERGED: "diverged",
    errors.OUT_OF_MEMORY: "oom",
    errors.SAVED: "interrupted",
    errors.INTERRUPTED: "interrupted",
}


_NUMBER: tuple[type, ...] = (int, float, type(None))
# What a job's note holds besides its number.
_KINDS: dict[str, tuple[type, ...]] = {
    "overrides": (list,),
    "folder": (str,),
    "exit_code": (int, type(None)),
    "status": (str,),
    "monitor": (str, type(None)),
    "best": (*_NUMBER, str),
    "examples_per_second": _NUMBER,
}


@dataclass
class Outcome:
    """What became of one job.

    Attributes:
        index: its number in the sweep.
        overrides: what sets it apart.
        folder: name of its folder.
        exit_code: the run's; negative where a signal ended it; None where it did not run.
        status: as in its report.json; `invalid` where its configuration or input is wrong,
            `running` until then, `not_run` where the sweep ended before it.
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


def read_report(outcome: Outcome, folder: Path, code: int) -> None:
    """What the run's report says of it."""
    outcome.exit_code, outcome.status = code, STATUS.get(code, "killed" if code < 0 else "failed")
    content = read_json(folder / REPORT)
    if not isinstance(content, dict):
        return
    if code == errors.INVALID and content.get("exit_code") != code:
        return  # it did not run, and the report there is another run's
    metrics = _mapping(content.get("metrics"))
    best, throughput = _mapping(metrics.get("best")), _mapping(content.get("throughput"))
    found = {
        "status": content.get("status") or outcome.status,
        "monitor": best.get("name"),
        "best": best.get("value"),
        "examples_per_second": throughput.get("examples_per_second"),
    }
    for key, value in found.items():
        if isinstance(value, _KINDS[key]):
            setattr(outcome, key, value)


def outcome_of(folder: Path, index: int) -> Outcome | None:
    """What was noted of a job; None where nothing was.

    Raises:
        ConfigurationError: what is there is no note of that job's.
    """
    file = folder / JOBS / f"{index}.json"
    content = read_json(file)
    if content is None:
        return None
    fits = isinstance(content, dict) and content.get("index") == index
    fits = fits and all(isinstance(content.get(key), kind) for key, kind in _KINDS.items())
    if not fits or not _are_texts(content["overrides"]):
        raise ConfigurationError(f"This is no note of job {index}.", where=str(file))
    if ".." in Path(content["folder"]).parts or Path(content["folder"]).is_absolute():
        raise ConfigurationError(
            f"The folder of job {index} lies outside of the sweep's: {content['folder']!r}.",
            where=str(file),
        )
    return Outcome(index, **{key: content.get(key) for key in _KINDS})


def plan_of(folder: Path) -> dict[str, Any] | None:
    """The plan of the sweep in `folder`: command, started_at, jobs; None where there is none.

    Raises:
        ConfigurationError: what is there is no plan.
    """
    file = folder / JOBS / PLAN
    content = read_json(file)
    if content is None and not file.exists():
        return None
    fits = isinstance(content, dict) and isinstance(content.get("started_at"), str)
    fits = fits and _are_texts(content.get("command")) and isinstance(content.get("jobs"), list)
    if not fits or not all(map(_are_texts, content["jobs"])):
        raise ConfigurationError("This is no plan of a sweep.", where=str(file))
    return content


def check_resumable(folder: Path) -> None:
    """Look at what a sweep left before anything is written over it.

    Raises:
        ConfigurationError: it is no sweep's, or is a link to somewhere else.
    """
    for name in (JOBS, MULTIRUN):
        if (folder / name).is_symlink():
            raise ConfigurationError(
                "This is a link, and is not followed.", where=str(folder / name)
            )
    for index in range(len((plan_of(folder) or {"jobs": []})["jobs"])):
        outcome_of(folder, index)


def leaves(folder: Path, name: str | Path) -> bool:
    """Whether `name`, in `folder`, is a place outside of it, by its parts or by a link."""
    try:
        return not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    except ValueError:  # no path at all
        return True


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def note(folder: Path, outcome: Outcome) -> None:
    """Write down a job's outcome, and bring sweep.json up to date."""
    RunFolder(folder / JOBS).write_json(f"{outcome.index}.json", asdict(outcome))
    write_sweep(folder)


def write_sweep(folder: Path, outcomes: list[Outcome] | None = None) -> None:
    """Write sweep.json from the plan and the outcomes: those so far, unless they are given."""
    plan = plan_of(folder) or {"jobs": []}
    if outcomes is None:
        outcomes = [
            outcome_of(folder, index) or Outcome(index, overrides, str(index))
            for index, overrides in enumerate(plan["jobs"])
        ]
    if any(outcome.status not in ("invalid", NOT_RUN, RUNNING) for outcome in outcomes):
        content = {
            "schema_version": SCHEMA_VERSION,
            "command": plan["command"],
            "started_at": plan["started_at"],
            "updated_at": report.timestamp(time.time()),
            "jobs": [asdict(outcome) for outcome in outcomes],
        }
        RunFolder(folder).write_json(SWEEP, content)


def try_to_write(write: Callable[[], None]) -> None:
    """`write`, or say what hinders it, such as a full disk: what is known must still be told."""
    try:
        write()
    except OSError as error:
        print(f"error: the sweep's folder cannot be written: {error.strerror}", file=sys.stderr)


def read_json(path: Path) -> Any:
    """The JSON in a file; None where it cannot be read."""
    try:
        return json.loads(report.read_regular(path, LARGEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
    return columns([[one_line(cell) for cell in row] for row in rows])


def _number(value: float | str | None, form: str) -> str:
    if isinstance(value, int | float):
        return format(value, form)
    return value if value is not None else "-"
