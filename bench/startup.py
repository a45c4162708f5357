"""From the command to the end of the first training step: mpt with default telemetry, bare `fit`.

Both read the same arrays and make their own weights, and the same callback prints when the step is
done. Runs of so few steps choose nothing by measuring.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.first_step import LINE
from bench.measure import compared, environment, in_turn, train_command
from bench.step_time import Job, mpt_words, written

TARGET = 1.10
STEPS = 64
WORKS = ("mlp", "resnet20")


def first_step(work: str, rounds: int) -> dict:
    """s, the sides in turn; one round ahead of those that count fills the disk's cache."""
    with written() as data:
        sides = {
            "mpt": lambda: _seconds(_mpt(work, data(work))),
            "keras": lambda: _seconds(_fit(work, data(work))),
        }
        in_turn(sides, 1)
        times = in_turn(sides, rounds)
    return {"kind": "start-up", **compared(times, "mpt", "keras", TARGET, "s")}


def _mpt(work: str, data: Path) -> list[str]:
    words = mpt_words(Job(work, "float32", data), STEPS)
    words = [word for word in words if not word.startswith("init_from=")]
    callback = "trainer.callbacks=[{_target_: bench.first_step.FirstStep}]"
    return train_command(*words, callback, "--allow", "bench.first_step", run=Path("run"))


def _fit(work: str, data: Path) -> list[str]:
    told = {"work": work, "policy": "float32", "folder": str(data), "group": 1}
    told |= {"jit_compile": "auto", "autotune": True, "first": True}
    return [sys.executable, "-m", "bench.keras_fit", json.dumps(told)]


def _seconds(command: Sequence[str]) -> float:
    """Until the process, which begins in an empty folder, says that its first step is done.

    Then it is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            cwd=folder,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
        process.wait()
    assert line.strip() == LINE.encode(), line
    return seconds
