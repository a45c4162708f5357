"""`make bench`: mpt against bare Keras on the same work, as JSON and as a table.

    python -m bench [--rounds N] [--case NAME ...] [--output FILE]

Each side runs in fresh processes, the sides in turn, and the median of the rounds counts. A ratio
is taken round by round. Nothing here asserts: the figures are for people to read.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench import accumulation, checkpoints, image_folder, resume, scaling
from bench.measure import ROOT, Side, compared, environment, in_turn, synthetic, train
from bench.work import WARMUP, WORKS

POLICIES = ("float32", "mixed_bfloat16")
# Highest ratio that the project sets itself: against the better Keras setting, autotune off.
TARGETS = {"cnn": 1.03, "mlp": 0.92, "resnet20": 0.80}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", action="append", choices=[name for name, _ in cases()])
    parser.add_argument("--output", type=Path, default=Path("bench-results.json"))
    options = parser.parse_args()
    results = {"machine": machine(), "rounds": options.rounds, "cases": {}}
    for name, measure in cases():
        if options.case and name not in options.case:
            continue
        results["cases"][name] = measure(options.rounds)
        options.output.write_text(json.dumps(results, indent=2) + "\n")
        print(row(name, results["cases"][name]), flush=True)
    print(f"results: {options.output.resolve()}")
    return 0


def cases() -> list[tuple[str, Callable[[int], dict]]]:
    """Every case by name."""
    found: list[tuple[str, Callable[[int], dict]]] = [
        ("digits", digits),
        ("end of a run", end_of_run),
        ("command line", command_line),
        (
            "cnn against fit as written",
            lambda rounds: step_time("cnn", "float32", rounds, (1,), 0.85),
        ),
    ]
    for work, target in TARGETS.items():
        for policy in POLICIES:
            found.append(
                (
                    f"{work} {policy}",
                    lambda rounds, work=work, policy=policy, target=target: step_time(
                        work, policy, rounds, (1, 16), target
                    ),
                )
            )
    found.append(("resnet20 fused normalization", fused_normalization))
    found.append(("resnet20 histograms", gradient_histograms))
    for work in ("mlp of 32", "resnet20 of 32"):
        found.append(
            (
                f"accumulation {work}",
                lambda rounds, work=work: accumulation.case(work, rounds, mpt_step_ms),
            )
        )
    found.append(("image folder", image_folder.case))
    for work in scaling.BATCH:
        found.append((f"devices {work}", lambda rounds, work=work: scaling.devices(work, rounds)))
        found.append((f"workers {work}", lambda rounds, work=work: scaling.workers(work, rounds)))
    found.append(("checkpoints", checkpoints.cost))
    found.append(("resume", lambda rounds: resume.first_step("digits", rounds)))
    found.append(("resume resnet20", lambda rounds: resume.first_step("resnet20", rounds)))
    return found


def step_time(
    work: str, policy: str, rounds: int, keras_settings: tuple[int, ...], target: float
) -> dict:
    """Steady-state step time of mpt, all telemetry on, against bare `fit`; ms, medians."""
    sides: dict[str, Side] = {"mpt": lambda: mpt_step_ms(work, policy)}
    for k in keras_settings:
        sides[f"keras_{k}"] = lambda k=k: keras_step_ms(work, policy, k)
    times = in_turn(sides, rounds)
    peer = min((name for name in sides if name != "mpt"), key=lambda name: median(times[name]))
    return compared(times, "mpt", peer, target)


def fused_normalization(rounds: int) -> dict:
    """A step of resnet-20 in mixed_bfloat16 with the fused kernel against Keras's stock one."""
    sides: dict[str, Side] = {
        "fused": lambda: mpt_step_ms("resnet20", "mixed_bfloat16"),
        "stock": lambda: mpt_step_ms(
            "resnet20", "mixed_bfloat16", "precision.fused_batch_norm=false"
        ),
    }
    return compared(in_turn(sides, rounds), "fused", "stock", 0.65)


def gradient_histograms(rounds: int) -> dict:
    """A step of resnet-20 with histograms each 500 steps, their cost spread over these, to none.

    Twenty steps a side and round, for single steps are noisy.
    """
    command = [sys.executable, "-m", "bench.histograms", str(20 * rounds)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment(), cwd=ROOT
    )
    times = json.loads(done.stdout.splitlines()[-1])
    alone = {key: median(times[key]) for key in ("skip", "count", "read")}
    one = alone["count"] - alone["skip"] + alone["read"]
    default = [step + one / 500 for step in times["between"]]
    return {
        **compared({"every 500": default, "off": times["off"]}, "every 500", "off", 1.02),
        "alone_ms": alone,
        "alone_share": (alone["skip"] + one / 500) / median(times["off"]),
    }


def digits(rounds: int) -> dict:
    """The default run: validation accuracy, and wall time with every import, s."""
    accuracies, walls = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        report = train()
        walls.append(time.perf_counter() - start)
        accuracies.append(report["metrics"]["final"]["validation/accuracy"])
    return {"accuracy": accuracies, "wall_seconds": walls, "target": "0.97 in 40 s"}


def end_of_run(rounds: int) -> dict:
    """What a 300-step run spends besides starting, its steps, evaluating and saving, s."""
    rest = []
    for _ in range(rounds):
        walls = train("trainer.steps=300", "trainer.epochs=null")["wall_seconds"]
        rest.append(walls["total"] - sum(v for k, v in walls.items() if k != "total" and v))
    return {"rest_seconds": rest, "target": 0.2}


def command_line(rounds: int) -> dict:
    """Whole-process times of what answers without TensorFlow, s."""
    commands = {
        "help": (["--help"], 0.3),
        "cfg_job": (["train", "--cfg", "job"], 1.0),
        "error": (["train", "precision=mixd_float16"], 1.0),
    }
    sides = {name: lambda words=words: wall(words) for name, (words, _) in commands.items()}
    times = in_turn(sides, rounds)
    return {"seconds": times, "target": {name: limit for name, (_, limit) in commands.items()}}


def mpt_step_ms(work: str, policy: str, *overrides: str) -> float:
    """Median step time of a real run, as its report has it; all telemetry on."""
    case = WORKS[work]
    report = train(
        *synthetic(work, WARMUP + case.steps),
        f"precision={policy}",
        f"trainer.steps={WARMUP + case.steps}",
        f"trainer.warmup_steps={WARMUP}",
        *overrides,
    )
    speed = report["throughput"]["examples_per_second"]
    return 1e3 * case.batch / speed


def keras_step_ms(work: str, policy: str, steps_per_execution: int) -> float:
    """Mean step time of bare `fit`."""
    command = [sys.executable, str(ROOT / "bench/keras_fit.py"), work, policy]
    command += [str(steps_per_execution), str(WORKS[work].steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return float(json.loads(done.stdout.splitlines()[-1])["step_ms"])


def wall(words: list[str]) -> float:
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("mpt")), *words]
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start


def machine() -> dict:
    """What the figures were measured on."""
    from importlib.metadata import version

    from mpt.device import parse_cpuinfo

    name, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "bfloat16_units": bool(flags & {"avx512_bf16", "amx_bf16"}),
        "python": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }


def row(name: str, result: dict) -> str:
    """One line of the table."""
    if "ratio" in result:
        unit = result["unit"]
        times = ", ".join(f"{side} {time:.2f} {unit}" for side, time in result["medians"].items())
        low, high = min(result["ratios"]), max(result["ratios"])
        text = f"ratio {result['ratio']:.3f} ({low:.3f} to {high:.3f}) to {result['against']}"
        if "alone_share" in result:
            parts = ", ".join(f"{part} {ms:.2f} ms" for part, ms in result["alone_ms"].items())
            times += f"; measured alone {100 * result['alone_share']:.3f}% ({parts})"
        if "cpu_ratio" in result:
            text += f", of processor time {result['cpu_ratio']:.3f}"
        return f"{name:<30}{text}; at most {result['target']}; {times}"
    figures = []
    for key, values in result.items():
        for part, numbers in values.items() if isinstance(values, dict) else [(key, values)]:
            if isinstance(numbers, list):
                figures.append(f"{part} {median(numbers):.3f}")
    return f"{name:<30}{', '.join(figures)}; target {result['target']}"


if __name__ == "__main__":
    sys.exit(main())
