"""The few tags of a run's metrics.jsonl that a comparison shows, read line by line."""

import math
from array import array
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from mpt.comparison.result import Curve, Run
from mpt.report import decode, open_regular
from mpt.run_folder import METRICS

SKIPPED = "loss_scale/skipped_steps"
LONGEST_ROW = 2**24
"""Bytes; what goes on for longer is no row, as in a file of nothing but a hole."""
_NUMBERS = (int, float)  # exactly: bool is none
ALWAYS = ("train/loss", "validation/loss", "loss_scale/scale")


def read_curves(run: Run, metric: str | None) -> str | None:
    """Fill `run.curves` and `run.skips`.

    Args:
        metric: the compared tag, read besides the usual ones.

    Returns:
        What is wrong with the file, in one sentence; what stands before it was read. None where
        nothing is, and where there is no file.
    """
    tags = [*ALWAYS, *([metric] if metric and metric not in ALWAYS else [])]
    columns = [(tag, array("d"), array("d"), array("d")) for tag in tags]
    skipped, timed, problem = 0.0, True, None
    path = run.path / METRICS
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    for number, row in _rows(file):
        step: Any = None if row is None else row.get("step")
        if row is None or type(step) not in _NUMBERS or not math.isfinite(step):
            problem = f"{path}:{number} is no row of metrics; what follows was left out"
            break
        wall = row.get("wall_seconds")
        if type(wall) not in _NUMBERS:
            timed, wall = False, 0.0
        for tag, steps, seconds, values in columns:
            value = row.get(tag)
            if type(value) not in _NUMBERS:
                value = decode(value)
                if type(value) is not float:  # absent, or not a number
                    continue
            steps.append(step)
            seconds.append(wall)
            values.append(value)
        count = row.get(SKIPPED)
        if type(count) in _NUMBERS and count > skipped:
            run.skips.append(int(step))
            skipped = count
    run.curves = {
        tag: Curve(steps, seconds if timed else None, values)
        for tag, steps, seconds, values in columns
        if values
    }
    return problem


def _rows(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(line number, row or None where it is not one); a last line without its end is left out.

    Closes the file.
    """
    with file:
        lines = iter(lambda: file.readline(LONGEST_ROW), b"")
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") and len(line) < LONGEST_ROW:
                return
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                row = None
            yield number, row if isinstance(row, dict) else None
