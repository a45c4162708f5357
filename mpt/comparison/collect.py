"""From paths to runs: what is a run, what is none, and why.

A run is a folder with a report.json. A folder with `.hydra/` or metrics.jsonl and no report is a
run that is still at work, or was killed. Hidden folders are not searched.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mpt.comparison.result import Run, Unreadable
from mpt.errors import ConfigurationError
from mpt.printable import one_line
from mpt.report import read, read_regular
from mpt.run_folder import METRICS, REPORT

SWEEP = "sweep.json"
LARGEST_SWEEP = 2**26
NO_REPORT = "no report: still running, or killed"
_RUNNING = "running"
# What lies in a run's folder and holds no further run.
_INSIDE = ("tensorboard", "checkpoints", "replay")
_WHY_NO_REPORT = {
    "invalid": "its configuration or input is wrong",
    "not_run": "the sweep ended before it",
}


@dataclass
class Collected:
    """What was found, in the order of the paths.

    Attributes:
        runs: without their curves.
        unreadable: what could not be read.
        sweeps: folders of sweeps.
    """

    runs: list[Run] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)


def collect(paths: Sequence[str | Path]) -> Collected:
    """Read the report of every run in `paths`.

    Args:
        paths: runs' folders, report files, sweeps' folders, folders above those, or globs.

    Raises:
        ConfigurationError: a path names nothing, or no run in them can be read.
    """
    found = Collected()
    seen: set[str] = set()
    for path in [expanded for given in paths for expanded in _expand(given)]:
        for place in _search(path, found):
            real = os.path.realpath(place)
            if real not in seen:
                seen.add(real)
                _read(place, found)
    for sweep in found.sweeps:
        _add_unreported(sweep, found)
    if not found.runs:
        _refuse(paths, found)
    return found


def _expand(given: str | Path) -> list[Path]:
    if not str(given).strip():  # which pathlib takes for the working folder
        raise ConfigurationError(
            "The path is empty.", where="command line", remedy='name a folder; "." is this one'
        )
    path = Path(os.path.expanduser(given))
    if os.path.exists(path):
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    if not matches:
        what = "Nothing matches this pattern." if glob.has_magic(str(path)) else "There is no such"
        raise ConfigurationError(
            what if what.endswith(".") else f"{what} file or folder.",
            where=str(given),
            remedy="name a run's folder, a sweep's, or one above them",
        )
    found = [Path(match) for match in matches]
    # "**" takes every file along.
    return [each for each in found if os.path.isdir(each) or each.name in (REPORT, SWEEP)]


def _search(path: Path, found: Collected) -> Iterator[Path]:
    """Reports in and below `path`, and folders of runs without one.

    Links are followed, but for those that lead back, or to a folder above `path`.
    """
    if not os.path.isdir(path):
        if path.name == SWEEP:
            yield from _search(path.parent, found)
        elif path.suffix == ".json":  # sweeps/X/* has other files, too
            yield path
        return

    def tell(error: OSError) -> None:
        reason = f"cannot be listed: {error.strerror}"
        found.unreadable.append(Unreadable(Path(error.filename), reason))

    entered = {str(above) for above in Path(os.path.realpath(path)).parents}
    for folder, folders, files in os.walk(path, onerror=tell, followlinks=True):
        here, real = Path(folder), os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        if REPORT in files or REPORT in folders:
            folders.clear()
            yield here / REPORT
            continue
        if METRICS in files or ".hydra" in folders:
            yield here
        if SWEEP in files:
            found.sweeps.append(here)
        kept = [name for name in folders if not name.startswith(".") and name not in _INSIDE]
        folders[:] = sorted(kept, key=_natural)


def _natural(name: str) -> tuple[int, str]:
    """Order of names in which 10 follows 9."""
    return (int(name) if name.isdecimal() else -1, name)


def _read(place: Path, found: Collected) -> None:
    if os.path.isdir(place):
        reason = "report.json is a folder" if place.name == REPORT else NO_REPORT
        found.unreadable.append(Unreadable(place, reason))
        return
    try:
        report = read(place)
        seed = report.config.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"The report holds a seed that is none: {seed!r}.")
    except ConfigurationError as error:
        # The place has a column of its own.
        reason = " ".join(filter(None, [error.message, error.remedy and f"({error.remedy})"]))
        found.unreadable.append(Unreadable(place, reason))
        return
    found.runs.append(Run(place.parent, report))


def _add_unreported(sweep: Path, found: Collected) -> None:
    """The jobs of a sweep that left no report: what it noted of them, and what they varied."""
    try:
        jobs = orjson.loads(read_regular(sweep / SWEEP, LARGEST_SWEEP))["jobs"]
        rows = [_job(sweep, job) for job in jobs]
    except (OSError, ValueError, KeyError, TypeError):
        found.unreadable.append(Unreadable(sweep / SWEEP, "not a sweep's list of jobs"))
        return
    silent = {
        os.path.realpath(each.path): index
        for index, each in enumerate(found.unreadable)
        if each.reason == NO_REPORT
    }
    known = {os.path.realpath(run.path) for run in found.runs}
    known |= {os.path.realpath(each.path) for each in found.unreadable}
    known |= {os.path.realpath(each.path.parent) for each in found.unreadable}
    for folder, status, said in rows:
        real = os.path.realpath(folder)
        if real in silent:
            why = NO_REPORT if status == _RUNNING else f"no report: {status.replace('_', ' ')}"
            row = Unreadable(found.unreadable[silent[real]].path, f"{why} ({said})")
            found.unreadable[silent[real]] = row
        if real in known:
            continue
        reason = status.replace("_", " ")
        if status in _WHY_NO_REPORT:
            reason += f": {_WHY_NO_REPORT[status]}"
        found.unreadable.append(Unreadable(folder, f"{reason} ({said})"))


def _job(sweep: Path, job: Any) -> tuple[Path, str, str]:
    """Folder, status and overrides of a job; a ValueError, KeyError or TypeError if it is none."""
    folder = sweep / str(job["folder"])
    os.path.realpath(folder)  # refuses what is no path
    return folder, str(job["status"]), " ".join(str(each) for each in job["overrides"])


def _refuse(paths: Sequence[str | Path], found: Collected) -> None:
    named = ", ".join(str(path) for path in paths)
    if not found.unreadable:
        raise ConfigurationError(
            "There is no run in these folders.",
            where=named,
            remedy="name a run's folder, one that holds report.json, a sweep's, or one above them",
        )
    shown = [one_line(f"{each.path}: {each.reason}") for each in found.unreadable[:5]]
    more = len(found.unreadable) - len(shown)
    raise ConfigurationError(
        "No run can be read: " + "; ".join(shown) + (f"; and {more} more" if more else "") + ".",
        where=named,
    )


def config_of(run: Run, dotted: str) -> Any:
    """A key of a run's configuration; None where it has none."""
    value: Any = run.report.config
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
