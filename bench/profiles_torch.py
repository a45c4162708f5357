"""The peer's profile: PyTorch's own profiler over steps of its loop. Prints one JSON line.

    PYTHON_WITH_TORCH -m bench.profiles_torch JSON

with work, policy, folder, warmup, steps, and of the setting: compile, channels_last.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from bench.measure import undisturbed
from bench.torch_fit import prepared

NEAR = 1.1
"""A profile is taken again where its steps took longer than this multiple of those without one."""


def main() -> None:
    asked = json.loads(sys.argv[1])
    step, batches = prepared(asked, "cpu")
    print(json.dumps({**profiled(step, batches, asked), "version": torch.__version__}))


def profiled(step: Any, batches: list, asked: dict[str, Any]) -> dict[str, Any]:
    """ms a step without the profiler and with it, and each operation's own time, ms a step."""
    steps = asked["steps"]

    def run(count: int) -> float:
        start = time.perf_counter()
        for number in range(count):
            step(*batches[number % len(batches)])
        return 1e3 * (time.perf_counter() - start) / count

    run(asked["warmup"])
    plain, before = run(steps), time.process_time()
    run(steps)
    processor = 1e3 * (time.process_time() - before) / steps
    with_profiler, times = undisturbed(
        lambda: _under_profiler(lambda: run(steps), shapes=False), NEAR * plain
    )
    _, shapes = _under_profiler(lambda: run(steps), shapes=True)
    return {
        "step_ms": plain,
        "processor_ms": processor,
        "profiled_step_ms": with_profiler,
        "ops": _operations(times, shapes, steps),
    }


def _under_profiler(run: Callable[[], float], shapes: bool) -> tuple[float, Any]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, record_shapes=shapes) as found:
        step_ms = run()
    return step_ms, found


def _operations(times: Any, shapes: Any, steps: int) -> list[dict[str, Any]]:
    """Operations by shape, their own time that of the profile without shapes.

    A profile with shapes keeps tensors alive, so that all that moves memory is slower in it, by a
    third on a residual network: it says only how an operation's time divides among shapes.
    """
    own = {event.key: event.self_cpu_time_total for event in times.key_averages()}
    by_shape = shapes.key_averages(group_by_input_shape=True)
    sums: dict[str, float] = defaultdict(float)
    for event in by_shape:
        sums[event.key] += event.self_cpu_time_total
    found = []
    for event in by_shape:
        share = event.self_cpu_time_total / sums[event.key] if sums[event.key] else 0.0
        shape = ", ".join("x".join(map(str, sizes)) for sizes in event.input_shapes if sizes)
        time_ms = own.get(event.key, 0.0) * share / 1e3 / steps
        count = event.count / steps
        found.append({"name": event.key, "shape": shape, "ms": time_ms, "count": count})
    return found


if __name__ == "__main__":
    main()
