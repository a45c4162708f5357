"""The largest batch that fits (`batch_size=max`): short trainings, each a process of its own.

The size doubles until one does not fit, and bisection narrows it down from there. The run then
takes a tenth less than the largest that fitted: memory fragments, and an evaluation needs some too.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mpt import errors, report, resuming
from mpt.errors import ConfigurationError
from mpt.isolation import Job, spawn

START = 8
GRID = 8  # matrix units take sizes in multiples of 8
TOLERANCE = 0.05
MARGIN = 0.1
STEPS = 3  # the first one allocates what all others need; a loop over steps shows by the third
TENSORFLOW_BYTES = 2**30  # what a process holds before it builds a model
FREE_SHARE = 0.9
# In what a process says that ran out of memory in a library that does not call it so.
_WORDS = (
    "bad_alloc",
    "out of memory",
    "out_of_memory",
    "resource_exhausted",
    "failed to allocate",
    "cannot allocate memory",
    "could not execute a primitive",  # oneDNN's, where it finds no memory to work in
    "could not create a primitive",
)
_CGROUP = Path("/sys/fs/cgroup")


class SearchFailed(Exception):
    """The search found no batch; `exit_code` is the one that the run ends with."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Attempt:
    """A short training at one size.

    Attributes:
        fits: whether there was memory enough.
        examples: training examples there are; None where it did not come to that.
        device: kind of the device; likewise.
        peak_bytes: most memory that it held, on the GPU, or else on the host; likewise.
        output: what its process said.
    """

    fits: bool
    examples: int | None = None
    device: str | None = None
    peak_bytes: int | None = None
    output: str = ""


def settle(
    job: Job,
    *,
    environment: Mapping[str, str] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Job:
    """`job` with a size for its batch: found by a search where it says batch_size=max.

    The configuration stays as it is, "max"; the number travels in the job's options. On a CPU the
    search keeps to device.memory_limit_mb, or else to most of the memory that is free now.

    Args:
        environment: variables of the child processes', besides this process's.
        stopped: asked while a child runs; True ends the search.

    Raises:
        SearchFailed: no batch fits, or a short training failed for another cause.
        KeyboardInterrupt: this process was interrupted, or `stopped` said so.
    """
    if job.config.get("batch_size") != "max":
        return job
    known = resuming.batch_size(Path(job.run_dir))
    if known is not None:  # the run goes on: what was found then is part of it
        return replace(job, options={**job.options, "batch_size": known})
    own_limit = job.config["device"]["memory_limit_mb"]
    free = free_mb()
    limit = free if own_limit is None else None
    told = _Teller(job)
    attempts: dict[int, Attempt] = {}

    def attempt(size: int) -> Attempt:
        start = time.monotonic()
        on_gpu = any(each.device == "gpu" for each in attempts.values())
        cpu_limit = None if on_gpu else limit
        attempts[size] = result = _attempt(job, size, cpu_limit, environment, stopped)
        told(size, result, time.monotonic() - start)
        return result

    low, high = search(attempt)
    if low == 0:
        raise SearchFailed(_nothing_fits(attempts[1], own_limit), errors.OUT_OF_MEMORY)
    size = low if high is None else with_margin(low)
    text = reason(low, high, size)
    if high is not None and attempts[low].device == "cpu":
        text += f", in {own_limit} MiB" if own_limit else f", in {free} MiB, most of what was free"
    told.say(f"{size}: {text}")
    return replace(job, options={**job.options, "batch_size": size, "batch_size_reason": text})


def search(attempt: Callable[[int], Attempt]) -> tuple[int, int | None]:
    """The largest size that fits, and the smallest above it that does not.

    They are at most 8, or a twentieth, apart: 1 where the first is below 8.

    Returns:
        0 first, where not even 1 fits; None second, where a batch of all training examples fits.
    """
    first = attempt(START)
    if not first.fits:
        return _narrow(lambda size: attempt(size).fits, 0, START)
    assert first.examples is not None
    low = START
    while low < first.examples:
        size = min(2 * low, first.examples)
        if not attempt(size).fits:
            return _narrow(lambda size: attempt(size).fits, low, size)
        low = size
    return low, None


def _narrow(fits: Callable[[int], bool], low: int, high: int) -> tuple[int, int]:
    """Bisect between `low`, which fits or is 0, and `high`, which does not."""
    while True:
        step = GRID if low >= GRID else 1
        if high - low <= max(step, TOLERANCE * low):
            return low, high
        middle = max(low + step, (low + high) // 2 // step * step)
        if fits(middle):
            low = middle
        else:
            high = middle


def with_margin(size: int) -> int:
    """A tenth less than `size`; from 64 on a multiple of 8."""
    less = max(1, int(size * (1 - MARGIN)))
    return less // GRID * GRID if less >= 64 else less


def reason(fits: int, fails: int | None, size: int) -> str:
    """Why the run takes `size`, in words."""
    if fails is None:
        return f"all {fits} training examples fit into one batch"
    less = f", less {MARGIN:.0%}" if size < fits else ""
    return f"the largest that fits{less}: {fits} fits, {fails} does not"


def free_mb() -> int:
    """Most of the memory, MiB, that a process on this machine or in this container can still get.

    What TensorFlow holds before a model is built is taken off.
    """
    free = psutil.virtual_memory().available
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((_CGROUP / most).read_text()) - int((_CGROUP / used).read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
        free = min(free, max(left, 0))
    return max(1, int(FREE_SHARE * free - TENSORFLOW_BYTES) // 2**20)


def _attempt(
    job: Job,
    size: int,
    cpu_limit_mb: int | None,
    environment: Mapping[str, str] | None,
    stopped: Callable[[], bool] | None,
) -> Attempt:
    """Train `STEPS` steps with batches of `size`, and remove what they left."""
    with tempfile.TemporaryDirectory(prefix="mpt-batch-") as folder:
        run_dir = Path(folder) / "run"
        trial = replace(
            job,
            config=_short(job.config, run_dir),
            run_dir=str(run_dir),
            verbosity=-1,
            label="",
            task="train",
            options={"steps": STEPS, "batch_size": size, "cpu_limit_mb": cpu_limit_mb},
        )
        with (Path(folder) / "output").open("w+", errors="backslashreplace") as output:
            code = spawn(trial, output=output, environment=environment, stopped=stopped)
            output.seek(0)
            said = output.read()
        return judge(code, said, run_dir)


def _short(config: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The run's configuration without what nobody reads; what takes memory stays."""
    unread = {"tensorboard": False, "peak": False}
    return {
        **config,
        "run_dir": str(run_dir),
        "telemetry": {**config["telemetry"], **unread},
        "trainer": {**config["trainer"], "smoke_checks": False},
    }


def judge(code: int, output: str, run_dir: Path) -> Attempt:
    """What came of a short training.

    Args:
        code: its exit code; negative where a signal ended it.
        output: what it said.

    Raises:
        SearchFailed: it failed, and not for want of memory.
        KeyboardInterrupt: it was interrupted.
    """
    if code == errors.INTERRUPTED:
        raise KeyboardInterrupt
    found = _report(run_dir)
    if found is not None and code in (errors.OK, errors.DIVERGED):
        memory = found.memory
        return Attempt(
            True,
            found.data.train_examples,
            found.device.kind,
            memory.device_peak_bytes or memory.host_rss_peak_bytes,
            output,
        )
    said = output
    if found is not None and found.reason is not None:
        said += found.reason.message
    starved = any(word in said.lower() for word in _WORDS)
    killed = code == -signal.SIGKILL  # by the kernel, which had no memory left
    if code == errors.OUT_OF_MEMORY or killed or (starved and code != errors.INVALID):
        return Attempt(False, output=output)
    raise SearchFailed(_failed(code, said), code if code > 0 else errors.FAILED)


def _report(run_dir: Path) -> report.RunReport | None:
    try:
        return report.read(run_dir)
    except ConfigurationError:
        return None


def _failed(code: int, said: str) -> str:
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    words = _last_words(said)
    return f"A short training for batch_size=max failed ({how}).\n{words}".rstrip()


def _nothing_fits(attempt: Attempt, limit_mb: int | None) -> str:
    where = "" if limit_mb is None else f" into device.memory_limit_mb={limit_mb}"
    lines = [f"Not even a batch of 1 fits{where}."]
    lines.append("  where:   batch_size=max")
    lines.append("  to do:   a smaller model, fewer examples in memory, or more memory")
    words = _last_words(attempt.output)
    return "\n".join([*lines, *([f"  it said:\n{words}"] if words else [])])


def _last_words(output: str, lines: int = 12) -> str:
    kept = [line for line in output.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept)


class _Teller:
    """Says on stderr how the search goes."""

    def __init__(self, job: Job):
        self._quiet, self._label = job.verbosity < 0, job.label

    def say(self, text: str) -> None:
        if not self._quiet:
            print(f"{self._label}batch_size=max: {text}", file=sys.stderr, flush=True)

    def __call__(self, size: int, attempt: Attempt, seconds: float) -> None:
        word = "fits" if attempt.fits else "does not fit"
        held = "" if attempt.peak_bytes is None else f", {attempt.peak_bytes / 2**20:.0f} MiB"
        self.say(f"{size} {word}{held} ({seconds:.0f} s)")
