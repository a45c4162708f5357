"""How fast batches of training data come when nothing else is done."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mpt import ending, errors, instantiate, report, stall
from mpt.console import Console
from mpt.data import Data
from mpt.data.errors import input_error
from mpt.device import cores
from mpt.report.numbers import rate, size
from mpt.run_folder import REPORT
from mpt.schema import TrainConfig
from mpt.stall import StallWatch

READY = 8
"""Batches that may have been made before they are asked for: they tell nothing of the speed."""


@dataclass(frozen=True)
class Speed:
    """What reading came to; times in s.

    Attributes:
        first: the first batch's time.
        times: of each further batch but those that were ready.
        busy: processor time over that time, in cores.
        batch_bytes: of one batch, all its tensors.
    """

    first: float
    times: np.ndarray
    busy: float
    batch_bytes: int

    @property
    def mean(self) -> float:
        """s a batch, over all of them."""
        return float(np.mean(self.times))


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    as_json: bool = False,
    seconds: int = 10,
    of_run: bool = False,
) -> int:
    """Read training batches for some time, and tell how fast they came; write nothing.

    Args:
        run_dir: with `of_run`, the folder of the run that trains on them.
        command, composed: of a job; they are not used.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        as_json: print one JSON object on stdout, and nothing else there.
        seconds: how long to read.
        of_run: hold the speed against that of the run's steps.

    Returns:
        0; 4 where memory does not suffice.

    Raises:
        ConfigurationError: the configuration or the input cannot be used.
    """
    console = Console(verbosity)
    with suppress(RuntimeError):  # TensorFlow has begun, in a process that has done other things
        tf.config.set_visible_devices([], "GPU")  # it would take the memory of one
    batch_size = int(config.batch_size)
    try:
        # What a builder prints would come before the object.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            start = time.perf_counter()
            data = instantiate.call(
                config.dataset,
                where="dataset",
                allow=allow,
                batch_size=batch_size,
                seed=config.seed,
            )
            build_seconds = time.perf_counter() - start
            speed = measure(data, seconds)
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        console.error(ending.out_of_memory(batch_size, error))
        return errors.OUT_OF_MEMORY
    for text in data.warnings:
        console.warning(text)
    content = _content(data, batch_size, build_seconds, speed)
    content["run"] = _held_against(run_dir, content) if of_run else None
    if as_json:
        print(json.dumps(report.encode(content), indent=2, allow_nan=False))
    else:
        _show(content)
    return errors.OK


def measure(data: Data, seconds: float) -> Speed:
    """Read batches of `data.train` for `seconds`, and at least one beyond those that were ready.

    Raises:
        ConfigurationError: a batch cannot be made. Where one does not come in
            `data.stall_seconds`, the process ends with that error.
    """
    asked = 0

    def stalled(waited: float) -> None:
        stall.give_up(stall.stalled(f"batch {asked}", waited))

    def following(iterator: Iterator[Any]) -> tuple[float, Any]:
        nonlocal asked
        asked += 1
        start = time.perf_counter()
        batch = next(iterator)
        return time.perf_counter() - start, batch

    try:
        with StallWatch(data.stall_seconds, lambda: asked, stalled):
            start = time.perf_counter()
            iterator = iter(data.train)
            batch = following(iterator)[1]
            first = time.perf_counter() - start
            for _ in range(READY):
                following(iterator)
            times: list[float] = []
            begin, processor = time.perf_counter(), time.process_time()
            while not times or time.perf_counter() - begin < seconds:
                times.append(following(iterator)[0])
            busy = (time.process_time() - processor) / (time.perf_counter() - begin)
    except (tf.errors.OpError, StopIteration) as error:
        raise input_error(error, data) or error from error
    leaves = tf.nest.flatten(batch, expand_composites=True)
    nbytes = sum(leaf.dtype.size * int(tf.size(leaf)) for leaf in leaves)
    return Speed(first, np.array(times), busy, nbytes)


def _content(data: Data, batch_size: int, build_seconds: float, speed: Speed) -> dict[str, Any]:
    ms = 1e3 * speed.times
    p10, median, p90 = (float(np.percentile(ms, share)) for share in (10, 50, 90))
    return {
        "dataset": data.name,
        "examples": data.train_examples,
        "inputs": _described(data.element_spec[0]),
        "batch_size": batch_size,
        "batch_bytes": speed.batch_bytes,
        "build_seconds": build_seconds,
        "first_batch_seconds": speed.first,
        "batches": len(ms),
        "batch_ms": {"median": median, "p10": p10, "p90": p90},
        "examples_per_second": batch_size / speed.mean,
        "bytes_per_second": speed.batch_bytes / speed.mean,
        "busy_cores": speed.busy,
        "cores": cores(),
    }


def _described(spec: Any) -> str:
    """Shape and dtype of one example's inputs."""
    parts = tf.nest.flatten(spec, expand_composites=True)
    texts = [f"{'x'.join(map(str, part.shape[1:])) or '1'} {part.dtype.name}" for part in parts]
    return ", ".join(texts)


def _held_against(run_dir: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What the run's step takes when its batch is there, and whether the data keep up with it.

    Raises:
        ConfigurationError: the run has no report.
    """
    found = report.read(run_dir / REPORT)
    speed, waited = found.throughput.examples_per_second, found.throughput.data_wait_fraction
    needed = None if speed is None or waited is None or waited >= 1 else speed / (1 - waited)
    share = None if needed is None else max(0.0, 1 - content["examples_per_second"] / needed)
    return {
        "path": str(run_dir),
        "examples_per_second": speed,
        "data_wait_fraction": waited,
        "needed_examples_per_second": needed,
        "expected_wait_fraction": share,
        "device": found.device.kind,
    }


def _show(content: dict[str, Any]) -> None:
    ms = content["batch_ms"]
    rows = [
        ("data", f"{content['dataset']}, {content['examples']} training examples"),
        ("inputs", content["inputs"]),
        ("batch", f"{content['batch_size']} examples, {size(content['batch_bytes'])}"),
        ("made in", f"{content['build_seconds']:.3g} s"),
        ("first batch", f"{content['first_batch_seconds']:.3g} s"),
        (
            "then",
            f"{ms['median']:.3g} ms a batch ({ms['p10']:.3g} to {ms['p90']:.3g}), "
            f"over {content['batches']} batches",
        ),
        (
            "speed",
            f"{rate(content['examples_per_second'])} examples/s, "
            f"{size(content['bytes_per_second'])}/s",
        ),
        ("processor", f"{content['busy_cores']:.2g} of {content['cores']} cores busy"),
    ]
    if content["run"] is not None:
        rows.append(("the run", _verdict(content["run"])))
    for label, text in rows:
        print(f"{label:<13}{text}")


def _verdict(run: dict[str, Any]) -> str:
    needed, share = run["needed_examples_per_second"], run["expected_wait_fraction"]
    if needed is None:
        return f"{run['path']} does not tell how long its steps waited for data"
    shared = run["device"] == "cpu"  # by steps and data
    if share:
        outcome = f"with these data they wait {share:.0%} of the time"
        outcome += ", or more, as both share the processor" if shared else ""
    else:
        outcome = "these data keep up"
        outcome += " where the steps leave them the processor" if shared else ""
    return f"its steps take {rate(needed)} examples/s when they need not wait; {outcome}"
