"""What the exponent histograms cost: resnet-20 without them, and at the default interval.

    python -m bench.histograms ROUNDS

Two loops in one process, a step of each in turn, so that a change of the machine's speed meets
both alike: no histograms, and the default interval, none of whose steps here is one that is
counted. What histograms add is far below the noise of whole steps, so it is measured alone too:
on the device, a step that is not counted (skip) and one that is (count); on the host, reading a
histogram of every layer and writing it to an event file (read). Prints one JSON line, all in ms, a
figure a round.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable

import tensorflow as tf

from bench.measure import configuration, synthetic
from mpt.execution import make_execution
from mpt.loss_scale import LossScaleOptimizer
from mpt.preparation import prepare
from mpt.telemetry.histograms import ExponentHistograms
from mpt.telemetry.tensorboard import Board

TIMES = 50  # that a piece of work too short to time by itself is repeated on the device
SIDES = {"off": 0, "between": 500}


def main() -> None:
    rounds = int(sys.argv[1])
    loops = {side: ready(every) for side, every in SIDES.items()}
    for step, _ in loops.values():
        step()
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES) if number % 2 == 0 else list(reversed(SIDES)):
            times[side].append(milliseconds(loops[side][0]))
    histograms = loops["between"][1].histograms
    count = counting(histograms)
    alone = {
        "skip": (lambda: count(tf.constant(1, tf.int64)), TIMES),
        "count": (lambda: count(tf.constant(histograms.every, tf.int64)), TIMES),
        "read": (lambda: reading(histograms), 1),
    }
    for name, (work, repeats) in alone.items():
        work()
        times[name] = [milliseconds(work) / repeats for _ in range(rounds)]
    print(json.dumps(times))


def ready(every: int) -> tuple[Callable[[], None], LossScaleOptimizer]:
    """One step of resnet-20, in a loop that has run already, and its optimizer."""
    words = [
        *synthetic("resnet20", 4),
        *("precision=float32", "trainer.steps=1000", "trainer.epochs=null"),
        *("trainer.jit_compile=false", f"telemetry.histogram_every={every}"),
    ]
    prepared = prepare(configuration(words), ())
    loop = make_execution(prepared).loop

    def step() -> None:
        loop.run(1)
        loop.drain()

    step()
    return step, prepared.optimizer


def counting(histograms: ExponentHistograms) -> Callable[[tf.Tensor], None]:
    """What a step of a given number does, `TIMES` times, with gradients as the model has them."""
    variables = [variable for layer in histograms.watched for variable in layer.variables]
    gradients = [tf.random.normal(variable.shape) for variable in variables]

    @tf.function
    def count(number: tf.Tensor) -> None:
        for _ in tf.range(TIMES):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
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
