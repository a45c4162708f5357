"""`make soak`: a long real run, watched from outside, must not grow nor slow down.

    python -m bench.soak [--steps N] [--keep FOLDER]

It trains as a process of its own with all that a run can have on: gradient statistics, histograms,
TensorBoard, a growing and overflowing loss scale, evaluation, Keras callbacks and many checkpoints.
The process's resident memory, file handles and threads are sampled by psutil; the step times are
those that the run itself logs. Ends with 0 where every bound holds, else with 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import psutil

from bench.measure import environment, train_command

STEPS = 20_000
INTERVAL = 0.2  # s between two samples
PARTS = 10  # the first of which is the warm-up
STEP_TIME = "throughput/step_time_ms"

RUN = (
    *("model=mlp", "model.hidden=[128,128]", "model.dropout=0.1", "dataset=digits"),
    *("batch_size=128", "precision=mixed_float16", "loss_scale.growth_steps=200"),
    *("optimizer.ema=true", "optimizer.global_clipnorm=1", "trainer.steps_per_execution=1"),
    *("trainer.log_every=20", "trainer.eval_every=100", "trainer.checkpoint_every=200"),
    *("telemetry.tensorboard=true", "telemetry.gradients=true", "telemetry.histogram_every=100"),
    "trainer.callbacks=[{_target_:keras.callbacks.ReduceLROnPlateau,monitor:val_loss,patience:50},"
    "{_target_:keras.callbacks.TerminateOnNaN}]",
)


@dataclass(frozen=True)
class Sample:
    """The process at one moment.

    Attributes:
        step: the last one that it had logged.
        rss: resident memory, bytes.
        cpu: processor time so far, all threads, s.
        others: cores that other processes of the machine have used since the last sample.
    """

    step: int
    rss: int
    handles: int
    threads: int
    cpu: float
    others: float


@dataclass(frozen=True)
class Interval:
    """What the run logged: its last step, the mean time of a step, and the time since it began."""

    step: int
    step_ms: float
    wall_seconds: float


@dataclass(frozen=True)
class Watched:
    """What was seen of one run."""

    samples: list[Sample]
    log: list[Interval]


@dataclass(frozen=True)
class Row:
    """One tenth of the run.

    Attributes:
        rss, step_ms: medians, bytes and ms.
        handles, threads: the fewest: what is open for a moment only is no leak.
        rest: s that went into evaluating and saving. No bound: the disk's share is too noisy.
        cpu_ms: processor time a step, evaluating and saving too, ms: what to look at where others
            were at work, and the step time is theirs as well.
        others: cores used by other processes.
    """

    rss: float
    handles: int
    threads: int
    step_ms: float
    rest: float
    cpu_ms: float
    others: float


@dataclass(frozen=True)
class Bound:
    """A figure that must not be above its limit."""

    name: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--keep", type=Path, help="a new folder, to keep the run in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.keep or Path(folder) / "run"
        command = train_command(*RUN, f"trainer.steps={options.steps}", run=run)
        watched = watch(command, run)
    table = rows(watched, options.steps)
    print(text(table))
    found = bounds(table)
    for bound in found:
        verdict = "pass" if bound.holds else "FAIL"
        print(f"{verdict}  {bound.name}: {bound.value:+.4g}, at most {bound.limit:+g}")
    return 0 if all(bound.holds for bound in found) else 1


def watch(command: Sequence[str], run: Path) -> Watched:
    """Start `command`, a run in the folder `run`, and watch it to its end.

    Raises:
        SystemExit: it failed.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment())
        try:
            samples = _sample(psutil.Process(process.pid), run)
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"the run failed ({process.returncode}):\n{said.read().decode()}")
    return Watched(samples, _logged((run / "metrics.jsonl").read_bytes()))


def _sample(process: psutil.Process, run: Path) -> list[Sample]:
    """Look at it until it ends, or has written its report: then it closes its files."""
    samples: list[Sample] = []
    step = read = 0
    used = _Used(process)
    while process.status() != psutil.STATUS_ZOMBIE and not (run / "report.json").exists():
        whole = _new_lines(run / "metrics.jsonl", read)
        read += len(whole)
        for interval in _logged(whole):
            step = interval.step
        try:
            rss = process.memory_info().rss
            handles, threads = process.num_fds(), process.num_threads()
            used.look()
        except (psutil.ZombieProcess, psutil.NoSuchProcess, psutil.AccessDenied):
            break  # it has just ended
        samples.append(Sample(step, rss, handles, threads, used.cpu, used.others))
        time.sleep(INTERVAL)
    return samples


class _Used:
    """Processor time: a process's own, and that of all others on the machine.

    Attributes:
        cpu: its own so far, s.
        others: cores that others have used since the last look.
    """

    def __init__(self, process: psutil.Process):
        self._process = process
        self._at = self._busy = self.cpu = self.others = 0.0
        self.look()

    def look(self) -> None:
        at, machine, own = time.perf_counter(), psutil.cpu_times(), self._process.cpu_times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        cpu = own.user + own.system
        spent = busy - self._busy - (cpu - self.cpu)
        self.others = max(0.0, spent / (at - self._at))
        self._at, self._busy, self.cpu = at, busy, cpu


def _new_lines(path: Path, start: int) -> bytes:
    """The whole lines from byte `start` on."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _logged(lines: bytes) -> list[Interval]:
    """The log intervals in lines of metrics.jsonl, which has rows of evaluations, too."""
    found = map(json.loads, lines.splitlines())
    return [
        Interval(row["step"], row[STEP_TIME], row["wall_seconds"])
        for row in found
        if STEP_TIME in row
    ]


def rows(watched: Watched, steps: int) -> list[Row]:
    """The run in tenths."""
    table = []
    for part in range(PARTS):
        first, last = part * steps // PARTS, (part + 1) * steps // PARTS
        samples = [sample for sample in watched.samples if first < sample.step <= last]
        log = [each for each in watched.log if first < each.step <= last]
        if not samples or not log:
            raise SystemExit(
                f"nothing was sampled from step {first} to {last}: a longer run, please"
            )
        table.append(
            Row(
                median(sample.rss for sample in samples),
                min(sample.handles for sample in samples),
                min(sample.threads for sample in samples),
                median(each.step_ms for each in log),
                _rest(watched.log, first, last),
                _cpu_ms(samples),
                fmean(sample.others for sample in samples),
            )
        )
    return table


def _cpu_ms(samples: list[Sample]) -> float:
    first, last = samples[0], samples[-1]
    return 1e3 * (last.cpu - first.cpu) / max(1, last.step - first.step)


def _rest(log: list[Interval], first: int, last: int) -> float:
    """Seconds between two steps that no step took."""
    pairs = pairwise([Interval(0, 0.0, 0.0), *log])
    return sum(
        after.wall_seconds - before.wall_seconds - after.step_ms * (after.step - before.step) / 1e3
        for before, after in pairs
        if first < after.step <= last
    )


def bounds(table: Sequence[Row]) -> list[Bound]:
    """What must hold. Memory, handles and threads count from the end of the warm-up."""

    def most(figure: Callable[[Row], float]) -> float:
        return max(figure(row) for row in table[1:])

    base = table[1]
    return [
        Bound("memory, growth in %", 100 * (most(lambda row: row.rss) / base.rss - 1), 2),
        Bound("file handles, growth", most(lambda row: row.handles) - base.handles, 0),
        Bound("threads, growth", most(lambda row: row.threads) - base.threads, 0),
        Bound("step time, growth in %", 100 * (table[-1].step_ms / table[0].step_ms - 1), 3),
    ]


def text(table: Sequence[Row]) -> str:
    """The tenths as a table."""
    heads = ("memory MiB", "handles", "threads", "step ms", "rest s", "cpu ms", "others")
    lines = ["tenth" + "".join(f"{head:>12}" for head in heads)]
    for number, row in enumerate(table, 1):
        lines.append(
            f"{number:>5}{row.rss / 2**20:>12.1f}{row.handles:>12}{row.threads:>12}"
            f"{row.step_ms:>12.3f}{row.rest:>12.2f}{row.cpu_ms:>12.3f}{row.others:>12.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
