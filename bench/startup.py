"""From the command to the end of the first training step: mpt with default telemetry, bare `fit`.

Both read the same arrays and make their own weights. The step's end is seen from outside: in
metrics.jsonl, of which each step writes a row here, and in a line that a callback of `fit` prints.
Runs of so few steps choose nothing by measuring, and the device's peak is known by then, from the
round that does not count: a run measures it once a machine.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import ROOT, compared, environment, in_turn
from bench.resume import until_step
from bench.step_time import Job, mpt_words, written

TARGET = 1.10
STEPS = 64
WORKS = ("mlp", "resnet20")


def first_step(work: str, rounds: int) -> dict:
    """s, the sides in turn; one round ahead of those that count fills both caches."""
    with tempfile.TemporaryDirectory() as folder, written() as data:
        words = mpt_words(Job(work, "float32", data(work)), STEPS)
        words = [word for word in words if not word.startswith("init_from=")]
        runs = iter(range(1_000_000))

        def mpt() -> float:
            run = Path(folder) / f"run{next(runs)}"
            return until_step([*words, "trainer.log_every=1"], run, 1)[0]

        sides = {"mpt": mpt, "keras": lambda: _fit(work, data(work))}
        in_turn(sides, 1)
        times = in_turn(sides, rounds)
    return {"kind": "start-up", **compared(times, "mpt", "keras", TARGET, "s")}


def _fit(work: str, folder: Path) -> float:
    """Until `fit` says that its first step is done; then it is killed."""
    told = {"work": work, "policy": "float32", "folder": str(folder), "group": 1}
    told |= {"jit_compile": "auto", "autotune": True, "first": True}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.keras_fit", json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    assert line.strip() == b"first step", line
    return seconds
