"""What the exponent histograms cost: resnet-20 without them, and at the default interval.

    python -m bench.histograms ROUNDS

Two loops in one process, a step of each in turn, so that a change of the machine's speed meets
both alike: no histograms, and the default interval, none of whose steps here is one that is
counted. What such a step costs more is measured alone, for it would drown in the noise of whole
steps: the counting of a histogram of every layer on the device, and the host's reading it and
writing it to an event file. Prints one JSON line, all in ms, a figure a round.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from hydra import compose, initialize_config_dir

from bench.work import WORKS
from mpt.composition import register
from mpt.config import configs_dir, to_config
from mpt.execution import make_execution
from mpt.loss_scale import LossScaleOptimizer
from mpt.preparation import prepare
from mpt.telemetry.histograms import ExponentHistograms
from mpt.telemetry.tensorboard import Board

SIDES = {"off": 0, "between": 500}


def main() -> None:
    rounds = int(sys.argv[1])
    loops = {side: ready(every) for side, every in SIDES.items()}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES) if number % 2 == 0 else list(reversed(SIDES)):
            times[side].append(milliseconds(loops[side][0]))
    optimizer = loops["between"][1]
    count, read = counting(optimizer), lambda: reading(optimizer.histograms)
    for work in (count, read):
        work()
    times["count"] = [milliseconds(count) for _ in range(rounds)]
    times["read"] = [milliseconds(read) for _ in range(rounds)]
    print(json.dumps(times))


def ready(every: int) -> tuple[Callable[[], None], LossScaleOptimizer]:
    """One step of resnet-20, in a loop that has run already, and its optimizer."""
    case = WORKS["resnet20"]
    words = [
        *case.overrides,
        "dataset=synthetic",
        f"dataset.shape=[{','.join(map(str, case.shape))}]",
        f"dataset.examples={4 * case.batch}",
        "dataset.validation_fraction=0",
        f"batch_size={case.batch}",
        "precision=float32",
        "trainer.steps=1000",
        "trainer.epochs=null",
        "trainer.jit_compile=false",
        f"telemetry.histogram_every={every}",
        "run_dir=unused",
    ]
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(configs_dir())):
        config: Any = to_config(compose("train", words))
    prepared = prepare(config, ())
    loop = make_execution(prepared).loop

    def step() -> None:
        loop.run(1)
        loop.drain()

    step()
    return step, prepared.optimizer


def counting(optimizer: LossScaleOptimizer) -> Callable[[], None]:
    """Counts one histogram of gradients as large as the model's, and waits for it."""
    histograms = optimizer.histograms
    variables = [variable for layer in histograms.watched for variable in layer.variables]
    gradients = [tf.random.normal(variable.shape) for variable in variables]

    @tf.function
    def count() -> None:
        number = tf.constant(histograms.every, tf.int64)
        histograms.count(zip(gradients, variables, strict=True), number)

    return count


def reading(histograms: ExponentHistograms) -> None:
    with tempfile.TemporaryDirectory() as folder, Board(folder) as board:
        for spread in histograms.read():
            board.histogram(spread.tag, spread.step, spread.buckets, spread.description)
        board.flush()


def milliseconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
