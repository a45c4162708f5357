"""What accumulated gradients cost: four steps that make one update, against four whole steps.

    python -m bench.accumulation WORK ROUNDS

`case` takes the step times of real runs, in fresh processes. Those of a machine with other work are
noisy, so this module, run as a program, has two loops in one process, four steps of each in turn,
and tells what they take of the processor. Prints one JSON line, ms a step, a figure a round.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median

from bench.measure import Side, compared, configuration, in_turn, last_json, processor, synthetic
from bench.work import WARMUP

EVERY = 4
SIDES = {"accumulated": EVERY, "separate": 1}
TARGET = 1.05
BLOCKS = 4  # of four steps a round, in the one process


def case(work: str, rounds: int, step_ms: Callable[..., float]) -> dict:
    """ms a step, accumulated against separate; and the ratio of processor time.

    Args:
        step_ms: the step time of a real run of a work under a policy, with overrides.
    """
    sides: dict[str, Side] = {
        side: lambda every=every: step_ms(
            work, "float32", f"optimizer.gradient_accumulation_steps={every}"
        )
        for side, every in SIDES.items()
    }
    times = in_turn(sides, rounds)
    cpu = last_json([sys.executable, "-m", "bench.accumulation", work, str(BLOCKS * rounds)])
    return {
        **compared(times, "accumulated", "separate", TARGET),
        "cpu_ms": {side: median(values) for side, values in cpu.items()},
        **processor(cpu, "accumulated", "separate"),
    }


def main() -> None:
    work, rounds = sys.argv[1], int(sys.argv[2])
    loops = {side: ready(work, every) for side, every in SIDES.items()}
    for steps in loops.values():
        steps()
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in list(SIDES) if number % 2 == 0 else list(reversed(SIDES)):
            start = time.process_time()
            loops[side]()
            times[side].append(1e3 * (time.process_time() - start) / EVERY)
    print(json.dumps(times))


def ready(work: str, every: int) -> Callable[[], None]:
    """Four steps of `work`, in a loop that has run already."""
    from mpt.execution import make_execution
    from mpt.preparation import prepare

    words = [
        *synthetic(work, WARMUP),
        *("precision=float32", "trainer.steps=1000", "trainer.epochs=null"),
        *("trainer.jit_compile=false", "trainer.log_every=1000", "telemetry.histogram_every=0"),
        f"optimizer.gradient_accumulation_steps={every}",
    ]
    loop = make_execution(prepare(configuration(words), ())).loop

    def steps() -> None:
        loop.run(EVERY)
        loop.drain()

    return steps


if __name__ == "__main__":
    main()
