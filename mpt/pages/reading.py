"""One run as its page needs it: the report, and every tag of metrics.jsonl as a curve."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, TypeGuard

from mpt.comparison.result import Curve, Run
from mpt.errors import ConfigurationError
from mpt.printable import one_line, path_text
from mpt.report import read
from mpt.run_folder import METRICS, read_metrics

SKIPPED = "loss_scale/skipped_steps"
NOT_TAGS = ("step", "epoch", "wall_seconds")


def read_run(path: str | Path) -> Run:
    """The run in a folder, or beside a report.json.

    Metrics that are absent leave it without curves; those that are damaged too, with a warning on
    stderr.

    Raises:
        ConfigurationError: there is no report, or it cannot be understood.
    """
    path = Path(path)
    if os.path.isdir(path) and _is_absent(path / "report.json"):
        raise _no_report(path)
    report = read(path)
    folder = path if os.path.isdir(path) else path.parent
    run = Run(folder, report)
    if not _is_absent(folder / METRICS):
        try:
            _fill(run, read_metrics(folder / METRICS))
        except ConfigurationError as error:
            said = f"{one_line(error.message)} {path_text(error.where or folder)}"
            print(f"warning: no curves: {said}", file=sys.stderr)
    return run


def _is_absent(path: Path) -> bool:
    """Whether nothing is there; what may not be looked at may be."""
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _no_report(folder: Path) -> ConfigurationError:
    """What the folder is instead, as far as its files tell."""
    if (folder / "sweep.json").exists() or any(folder.glob("[0-9]*/report.json")):
        return ConfigurationError(
            "This is the folder of a sweep.",
            where=str(folder),
            remedy=f"name one of its runs, {folder / '0'} say; `mpt compare {folder}` shows all",
        )
    if (folder / METRICS).exists() or (folder / ".hydra").exists():
        return ConfigurationError(
            "This run has no report: it is still running, or was killed.",
            where=str(folder / "report.json"),
            remedy=f"{folder / 'train.log'} has what it said so far",
        )
    return ConfigurationError(
        "There is no run in this folder: it has no report.json.",
        where=str(folder),
        remedy="name a run's folder",
    )


def _fill(run: Run, rows: list[dict[str, Any]]) -> None:
    found: dict[str, tuple[list[float], list[float], list[float]]] = {}
    skipped, timed = 0.0, True
    for row in rows:
        step, wall = row.get("step"), row.get("wall_seconds")
        if not _is_number(step) or not math.isfinite(step):
            continue
        if not _is_number(wall) or not math.isfinite(wall):
            timed, wall = False, 0.0
        for tag, value in row.items():
            if tag not in NOT_TAGS and _is_number(value):
                columns = found.setdefault(tag, ([], [], []))
                for column, number in zip(columns, (step, wall, value), strict=True):
                    column.append(float(number))
        count = row.get(SKIPPED, 0.0)
        if _is_number(count) and count > skipped:
            run.skips.append(int(step))
            skipped = count
    run.curves = {
        tag: Curve(steps, seconds if timed else None, values)
        for tag, (steps, seconds, values) in found.items()
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
