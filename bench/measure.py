"""How the cases measure: real runs in fresh processes, the sides in turn, medians."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from bench.verdicts import ratios
from bench.work import WORKS

ROOT = Path(__file__).parent.parent
Side = Callable[[], float]
Found = TypeVar("Found")
TRIES = 3


def in_turn(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Each side once a round, in turn; the order is reversed every other round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            times[name].append(sides[name]())
    return times


def compared(
    times: dict[str, list[float]], ours: str, peer: str, target: float, unit: str = "ms"
) -> dict:
    """The ratio of `ours` to `peer`, which is taken round by round."""
    found = ratios(times, ours, peer)
    return {
        "unit": unit,
        "times": times,
        "medians": {name: median(values) for name, values in times.items()},
        "against": peer,
        "ratios": found,
        "ratio": median(found),
        "target": target,
    }


def processor(spent: dict[str, list[float]], ours: str, peer: str) -> dict:
    """What `compared` has of wall time, of processor time: it tells more under other load."""
    found = ratios(spent, ours, peer)
    return {"cpu_ratios": found, "cpu_ratio": median(found)}


def undisturbed(take: Callable[[], tuple[float, Found]], limit: float) -> tuple[float, Found]:
    """The first that was taken within `limit`, or the fastest of a few: a machine has slow seconds.

    Args:
        take: gives its time, and what it found.
    """
    tries: list[tuple[float, Found]] = []
    while len(tries) < TRIES and not (tries and tries[-1][0] <= limit):
        tries.append(take())
    return min(tries, key=lambda each: each[0])


class Failed(Exception):
    """A side's process ended with an error; its last words."""


def last_json(command: list[str]) -> dict:
    """The last line that `command`, run from the repository's root, prints.

    Raises:
        Failed: it ended with an error.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), cwd=ROOT
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(lines[-1][:300])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def train(*overrides: str) -> dict:
    """The report of one `mpt train` with these overrides."""
    with trained(*overrides) as run:
        return json.loads((run / "report.json").read_text())


@contextmanager
def trained(*overrides: str) -> Iterator[Path]:
    """The folder of one `mpt train` with these overrides.

    Raises:
        Failed: it ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = train_command(*overrides, run=run)
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment(), cwd=folder
        )
        if done.returncode:
            raise Failed(f"{' '.join(command)}\n{done.stderr}")
        yield run


def train_command(*overrides: str, run: Path) -> list[str]:
    return [sys.executable, "-m", "mpt", "-q", "train", *overrides, f"run_dir={run}"]


def synthetic(work: str, steps: int) -> list[str]:
    """Overrides of `work` on random examples, as many as `steps` batches."""
    case = WORKS[work]
    return [
        *case.overrides,
        "dataset=synthetic",
        f"dataset.shape=[{','.join(map(str, case.shape))}]",
        f"dataset.examples={steps * case.batch}",
        "dataset.validation_fraction=0",
        f"batch_size={case.batch}",
    ]


def configuration(words: Sequence[str]) -> Any:
    """The configuration of `mpt train WORDS`, for a case that runs in this process."""
    from hydra import compose, initialize_config_dir

    from mpt.composition import register
    from mpt.config import configs_dir, to_config

    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(configs_dir())):
        return to_config(compose("train", [*words, "run_dir=unused"]))


def environment() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
