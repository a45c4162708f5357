"""How soon a run that was interrupted trains again: from the process's start to its first step.

The first step is seen from outside, in metrics.jsonl, of which each step writes a row here, on both
sides. The file is looked at every 2 ms, which is the error. The processor time up to there tells
more where the machine has other work.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from bench.measure import compared, environment, in_turn, processor, synthetic, train_command

PAIRS = 7  # at least
TARGET = 1.1
POLL = 0.002  # s
INTERRUPTED_AFTER = 30  # steps
SAVED = 75  # exit code of a run that can go on

WORKS = {
    "digits": [],
    "resnet20": [
        *synthetic("resnet20", 64),
        *("precision=float32", "trainer.jit_compile=false"),
        *("trainer.steps=10000", "trainer.epochs=null"),
    ],
}


def first_step(work: str, rounds: int) -> dict:
    """Time to the first step, resumed against fresh, s; the sides in turn."""
    words = [*WORKS[work], "trainer.log_every=1"]
    with tempfile.TemporaryDirectory() as folder:
        interrupted = Path(folder) / "interrupted"
        _interrupt(words, interrupted)
        saved = _last_step(interrupted)
        spent: dict[str, list[float]] = {"resumed": [], "fresh": []}

        def timed(side: str) -> float:
            run = Path(folder) / f"{side}{len(spent[side])}"
            if side == "resumed":
                shutil.copytree(interrupted, run)
            seconds, cpu = until_step(words, run, saved + 1 if side == "resumed" else 1)
            spent[side].append(cpu)
            return seconds

        sides = {side: lambda side=side: timed(side) for side in spent}
        in_turn(sides, 1)  # what is read first is not in the disk's cache yet
        times = in_turn(sides, max(rounds, PAIRS))
    counted = {side: values[1:] for side, values in spent.items()}
    return {
        **compared(times, "resumed", "fresh", TARGET, "s"),
        "cpu_seconds": {side: median(values) for side, values in counted.items()},
        **processor(counted, "resumed", "fresh"),
    }


def _interrupt(words: list[str], run: Path) -> None:
    """A run that was interrupted after some steps, and saved."""
    process = _start(words, run)
    while _last_step(run) < INTERRUPTED_AFTER:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(POLL)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == SAVED


def until_step(words: list[str], run: Path, step: int) -> tuple[float, float]:
    """From the start of a process until `step` is done: its wall and processor time, s.

    Then it is killed.
    """
    start = time.perf_counter()
    process = _start(words, run)
    while _last_step(run) < step:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(POLL)
    seconds = time.perf_counter() - start
    cpu = psutil.Process(process.pid).cpu_times()
    process.kill()
    process.wait()
    return seconds, cpu.user + cpu.system


def _start(words: list[str], run: Path) -> subprocess.Popen:
    silent = subprocess.DEVNULL
    command = train_command(*words, run=run)
    return subprocess.Popen(command, stdout=silent, stderr=silent, env=environment())


def _last_step(run: Path) -> int:
    """The step of the last whole row of the run's metrics.jsonl; 0 where there is none."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0
