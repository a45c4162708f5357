"""How soon a run that was interrupted trains again: from the process's start to its first step.

The first step is seen from outside, in metrics.jsonl, of which each step writes a row here, on both
sides. The file is looked at every 2 ms, which is the error.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from bench.measure import compared, environment, in_turn, synthetic, train_command

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
    """Time to the first step, fresh against resumed, s; the sides in turn."""
    words = [*WORKS[work], "trainer.log_every=1"]
    with tempfile.TemporaryDirectory() as folder:
        interrupted = Path(folder) / "interrupted"
        _interrupt(words, interrupted)
        saved = _last_step(interrupted)
        number = 0

        def fresh() -> float:
            nonlocal number
            number += 1
            return _until_step(words, Path(folder) / f"fresh{number}", 1)

        def resumed() -> float:
            nonlocal number
            number += 1
            run = Path(folder) / f"resumed{number}"
            shutil.copytree(interrupted, run)
            return _until_step(words, run, saved + 1)

        sides = {"resumed": resumed, "fresh": fresh}
        in_turn(sides, 1)  # what is read first is not in the disk's cache yet
        times = in_turn(sides, max(rounds, PAIRS))
    return compared(times, "resumed", "fresh", TARGET, "s")


def _interrupt(words: list[str], run: Path) -> None:
    """A run that was interrupted after some steps, and saved."""
    process = _start(words, run)
    while _last_step(run) < INTERRUPTED_AFTER:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(POLL)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == SAVED


def _until_step(words: list[str], run: Path, step: int) -> float:
    """Seconds from the start of a process until `step` is done; then it is killed."""
    start = time.perf_counter()
    process = _start(words, run)
    while _last_step(run) < step:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(POLL)
    seconds = time.perf_counter() - start
    process.kill()
    process.wait()
    return seconds


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
