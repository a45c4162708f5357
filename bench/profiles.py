"""Where a step's time goes, by kind of operation, of mpt or of PyTorch.

    python -m bench.profiles WORK POLICY [--side mpt|torch] [--xla | --no-xla] [--steps N]
        [--compile] [--channels-last] [--json FILE]
    python -m bench.profiles all POLICY    every work whose step is timed, both sides

mpt's is the step of a real run, telemetry on, under TensorFlow's profiler (bench/profiles_trace.py
says how time is divided among operations that overlap); PyTorch's is its own profiler's. The wall
time of a step is the sum of its kinds and of the rest, in which nothing was at work.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import profiles_kinds as kinds
from bench import profiles_trace
from bench.measure import configuration, environment, last_json, undisturbed
from bench.results import FOLDER
from bench.step_time import TORCH, Job, mpt_words, written
from bench.work import STEP_TIMES, WORKS

ALL = "all"
STEPS = 10
TOP = 15
NEAR = 1.05
"""A profile is taken again where its steps took longer than this multiple of those without one."""
SUMMED = ("ms", "core_ms", "count")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profiles")
    parser.add_argument("work", choices=(*WORKS, ALL))
    parser.add_argument("policy")
    parser.add_argument("--side", choices=("mpt", "torch"), default="mpt")
    parser.add_argument("--xla", action=argparse.BooleanOptionalAction)
    parser.add_argument("--compile", action="store_true", help="of PyTorch: torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="of PyTorch")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.work == ALL:
        return everything(options.policy)
    with written() as folder:
        job = Job(options.work, options.policy, folder(options.work))
        if options.side == "mpt":
            found = of_mpt(job, options.steps, options.xla)
        else:
            setting = {"compile": options.compile, "channels_last": options.channels_last}
            found = of_torch(job, options.steps, setting)
    target = options.json or FOLDER / f"{file_name(found)}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    print("\n".join([*described(found), f"results: {target.resolve()}"]))
    return 0


def everything(policy: str) -> int:
    """Profile both sides of every work, each in a fresh process."""
    failed = 0
    for work in STEP_TIMES:
        for side in ("mpt", "torch") if TORCH in os.environ else ("mpt",):
            command = [sys.executable, "-m", "bench.profiles", work, policy, "--side", side]
            if side == "torch" and len(WORKS[work].shape) == 3:
                command.append("--channels-last")
            failed += bool(subprocess.run(command, check=False, env=environment()).returncode)
    return int(failed > 0)


def file_name(found: dict[str, Any]) -> str:
    """Of a profile's JSON, without the ending."""
    parts = ["profiles", found["work"], found["policy"], found["side"], *found["setting"]]
    return "-".join(part.replace(" ", "_") for part in parts)


def of_mpt(job: Job, steps: int = STEPS, xla: bool | None = None) -> dict[str, Any]:
    """The profile of mpt's step.

    Args:
        steps: profiled ones.
        xla: whether it compiles the step; None: as mpt itself chooses.
    """
    words = mpt_words(job, job.plan.warmup + 3 * steps)
    if xla is not None:
        words.append(f"trainer.jit_compile={str(xla).lower()}")
    return {"work": job.work, "policy": job.policy, **of_run(words, job.plan.warmup, steps)}


def of_run(words: Sequence[str], warmup: int, steps: int) -> dict[str, Any]:
    """The profile of the step of `mpt train WORDS`, in this process."""
    from bench.profiles_bytes import traced
    from mpt.execution import make_execution
    from mpt.preparation import prepare

    parts = prepare(configuration(words), ())
    execution = make_execution(parts)
    loop = execution.loop
    rows = parts.config.trainer.log_every
    assert steps <= rows, "the ring would be overwritten"

    def run(count: int) -> float:
        start = time.perf_counter()
        loop.run(count)
        loop.wait()
        seconds = time.perf_counter() - start
        loop.drain()
        return 1e3 * seconds / count

    run(min(warmup, rows))
    before = time.process_time()
    plain = run(steps)
    processor = 1e3 * (time.process_time() - before) / steps
    with_profiler, trace = undisturbed(lambda: _traced(lambda: run(steps)), NEAR * plain)
    step = traced(_graph(loop), {kinds.place(op.name) for op in trace.ops})
    figures = profile_of(trace, steps, step.shapes)
    return {
        "side": "mpt",
        "setting": ["xla"] if execution.jit.enabled else [],
        "jit": execution.jit.reason,
        "step_ms": plain,
        "processor_ms": processor,
        "profiled_step_ms": with_profiler,
        **figures,
        **_ceilings(parts, figures, step, plain),
    }


def _traced(run: Callable[[], float]) -> tuple[float, profiles_trace.Trace]:
    import tensorflow as tf

    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder, options=options)
        step_ms = run()
        tf.profiler.experimental.stop()
        return step_ms, profiles_trace.read(folder)


def _graph(loop: Any) -> Any:
    import tensorflow as tf

    one = tf.constant(1, tf.int64)
    return loop._steps.get_concrete_function(loop._iterator, one).graph


def profile_of(
    trace: profiles_trace.Trace,
    steps: int,
    shapes: dict[str, str],
    cores: int | None = None,
) -> dict[str, Any]:
    """Time a step by kind, the operations that take most, and the rest; ms."""
    cores = cores or len(os.sched_getaffinity(0))
    start, end = trace.extent()
    split = profiles_trace.split(trace, cores, start, end)
    scale = 1e9 * steps
    ops = []
    for op, wall, core in zip(trace.ops, split.wall, split.core, strict=True):
        node = kinds.place(op.name)
        ops.append(
            {
                "name": node.removeprefix("while/"),
                "type": op.type,
                "kind": kinds.kind(op.type, op.name),
                "shape": shapes.get(node, ""),
                "ms": wall / scale,
                "core_ms": core / scale,
                "count": 1 / steps,
            }
        )
    rest = {"ms": split.idle / scale, "core_ms": (cores * split.total - sum(split.core)) / scale}
    return {
        "steps": steps,
        "cores": cores,
        "wall_ms": split.total / scale,
        "kinds": by_kind(ops),
        "rest": rest,
        "top": top(ops),
    }


def by_kind(ops: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Sums, in the order of `KINDS`; a kind of which there is nothing is left out."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for op in ops:
        for key in SUMMED:
            sums[op["kind"]][key] += op.get(key, 0.0)
    return {kind: dict(sums[kind]) for kind in kinds.KINDS if kind in sums}


def top(ops: Iterable[dict[str, Any]], count: int = TOP) -> list[dict[str, Any]]:
    """What takes most: an operation of a model's blocks counts once, over all of them."""
    sums: dict[tuple[str, str, str], dict[str, Any]] = {}
    for op in ops:
        key = (everywhere(op["name"]), op.get("type", ""), op["shape"])
        one = sums.setdefault(key, {**op, "name": key[0], **dict.fromkeys(SUMMED, 0.0)})
        for each in SUMMED:
            one[each] += op.get(each, 0.0)
    return sorted(sums.values(), key=lambda op: -op["ms"])[:count]


def everywhere(name: str) -> str:
    """A node's name without the numbers by which those of a model's blocks differ."""
    name = re.sub(r"(?<=block)\d+", "*", re.sub(r"(?<=stage)\d+", "*", name))
    return re.sub(r"_\d+(?=/|$)", "", name)


def _ceilings(parts: Any, figures: dict[str, Any], step: Any, step_ms: float) -> dict[str, Any]:
    """The model's FLOPs against the peak of what does most of them, and the bytes."""
    from mpt.telemetry import peaks
    from mpt.telemetry.compute import forward_pass

    dtype = parts.compute_dtype
    by = figures["kinds"]
    convolutions = sum(by.get(k, {}).get("ms", 0.0) for k in (kinds.FORWARD, kinds.BACKWARD))
    multiplied = by.get(kinds.PRODUCTS, {}).get("ms", 0.0)
    convolves = convolutions > multiplied
    forward = forward_pass(parts.model, parts.data.element_spec[0]).flops
    flops = 3 * forward * parts.batch_size if forward else None
    peak = (peaks.convolution_peak if convolves else peaks.matmul_peak)(dtype)
    rate = peaks.bandwidth("float32")
    return {
        "ceiling": "convolution" if convolves else "matrix product",
        "flops_per_step": flops,
        "peak_flops_per_second": peak,
        "share": _ratio(flops, peak and peak * step_ms / 1e3),
        "share_inside": _ratio(flops, peak and peak * (convolutions + multiplied) / 1e3),
        "bytes": {"moved": step.moved, "least": step.least},
        "bandwidth_bytes_per_second": rate,
        "least_ms": _ratio(1e3 * step.least, rate),
    }


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def of_torch(
    job: Job, steps: int = STEPS, setting: dict[str, bool] | None = None
) -> dict[str, Any]:
    """The profile of PyTorch's step, by the interpreter that MPT_TORCH_PYTHON names.

    Raises:
        Failed: it ended with an error.
    """
    if TORCH not in os.environ:
        raise SystemExit(f"{TORCH} is not set: it names a Python that has PyTorch")
    setting = {name: True for name, chosen in (setting or {}).items() if chosen}
    asked = {"work": job.work, "policy": job.policy, "folder": str(job.folder), **setting}
    asked |= {"warmup": job.plan.warmup, "steps": steps}
    found = last_json([os.environ[TORCH], "-m", "bench.profiles_torch", json.dumps(asked)])
    return {
        "work": job.work,
        "policy": job.policy,
        "side": "torch",
        "setting": sorted(setting),
        **torch_figures(found, steps, casts=job.policy.startswith("mixed")),
    }


def torch_figures(found: dict[str, Any], steps: int, *, casts: bool) -> dict[str, Any]:
    """As of mpt's profile; an operation's own time, and the rest of the wall time."""
    ops = [{**op, "kind": kinds.aten_kind(op["name"], casts)} for op in found.pop("ops")]
    wall = found["profiled_step_ms"]
    return {
        **found,
        "steps": steps,
        "cores": len(os.sched_getaffinity(0)),
        "wall_ms": wall,
        "kinds": by_kind(ops),
        "rest": {"ms": max(0.0, wall - sum(op["ms"] for op in ops))},
        "top": top(ops),
    }


def described(found: dict[str, Any]) -> list[str]:
    """A profile as text."""
    wall = found["wall_ms"]
    setting = "".join(f", {name}" for name in found["setting"])
    lines = [
        f"{found['work']} {found['policy']}, {found['side']}{setting}: {found['step_ms']:.1f} ms a "
        f"step, {wall:.1f} under the profiler; processor {found['processor_ms']:.0f} ms on "
        f"{found['cores']} cores",
        *ceilings(found),
        f"{'kind':<30}{'ms':>9}{'share':>8}{'core ms':>10}{'a step':>9}",
    ]
    for kind, one in [*found["kinds"].items(), ("the rest", found["rest"])]:
        core = f"{one['core_ms']:.2f}" if one.get("core_ms") else ""
        count = f"{one['count']:.0f}" if "count" in one else ""
        lines.append(f"{kind:<30}{one['ms']:>9.2f}{one['ms'] / wall:>8.1%}{core:>10}{count:>9}")
    lines.append("what takes most, ms a step")
    lines += [
        f"{op['ms']:>9.2f} {op['count']:>5.0f}x {op['name']}"
        + (f" [{op['type']}]" if "type" in op else "")
        + (f" {op['shape']}" if op["shape"] else "")
        for op in found["top"]
    ]
    return lines


def ceilings(found: dict[str, Any]) -> list[str]:
    """Sentences on the share of the peak and on the bytes; none where they are not known."""
    lines = []
    if found.get("share"):
        lines.append(
            f"{found['flops_per_step'] / 1e9:.1f} GFLOP a step: {found['share']:.2f} of the "
            f"{found['ceiling']} peak of {found['peak_flops_per_second'] / 1e9:.0f} GFLOP/s, and "
            f"{found['share_inside']:.2f} inside of the products alone"
        )
    if found.get("least_ms"):
        moved, least = (found["bytes"][key] / 2**20 for key in ("moved", "least"))
        lines.append(
            f"all but the products read and write {moved:.0f} MiB one by one; fused, at the least "
            f"{least:.0f} MiB, {found['least_ms']:.1f} ms at the measured bandwidth"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
