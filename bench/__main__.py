"""`make bench`: mpt against bare Keras and PyTorch on the same work, as JSON, tables and pictures.

    python -m bench [--rounds N] [--case NAME ...] [--policy POLICY ...] [--missing] [--output FILE]
    python -m bench --docs-only [--output FILE]

Each side runs in fresh processes, the sides in turn, and the median of the rounds counts. A ratio
is taken round by round. Nothing here asserts: the figures are for people to read. A case is merged
into the results as soon as it is measured, and the rest of them stays. They lie in bench/results, a
file for each kind of machine; docs/performance.md is written anew from them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from bench import (
    accumulation,
    checkpoints,
    documents,
    image_folder,
    results,
    resume,
    scaling,
    startup,
    step_time,
    targets,
)
from bench.measure import Failed, Side, compared, environment, in_turn, last_json, synthetic, train
from bench.work import STEP_TIMES, WARMUP, WORKS

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "tf32")
TELEMETRY = 1.01
Measure = Callable[[int], dict]


def main() -> int:
    options = arguments()
    path = options.output or results.path_of(results.machine())
    found = results.load(path)
    if options.docs_only and not found["cases"]:
        there = ", ".join(str(file) for file in sorted(results.FOLDER.glob("*.json")))
        raise SystemExit(f"no results in {path}; --output FILE names others: {there or 'none'}")
    if not options.docs_only:
        try:
            with session(found) as cases:
                measure(cases, options, found, path)
        except Failed as error:
            raise SystemExit(f"{error}\n--missing goes on from here") from None
        print(f"results: {path.resolve()}")
    if options.docs_only or not options.output:
        documents.write(found)
        print(f"page: {documents.PAGE}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", action="append", help="a name, or its beginning: cnn, resume")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="of the step times")
    parser.add_argument("--missing", action="store_true", help="only what the results lack")
    parser.add_argument(
        "--output", type=Path, help="a results file of one's own; docs/ stays as it is"
    )
    parser.add_argument("--docs-only", action="store_true", help="measure nothing, write docs/")
    return parser.parse_args()


def measure(
    cases: list[tuple[str, Measure]], options: argparse.Namespace, found: dict[str, Any], path: Path
) -> None:
    """Measure what was asked for, and save each case as it comes."""
    names = [name for name, _ in cases]
    for name in selected(names, options.case, options.policy):
        if options.missing and name in found["cases"]:
            continue
        start = time.perf_counter()
        case = dict(cases)[name](options.rounds)
        case["seconds_to_measure"] = time.perf_counter() - start
        if "skipped" in case:
            found.setdefault("skipped", {})[case["policy"]] = case["skipped"]
        else:
            results.merge(found, name, case, options.rounds)
            print(row(name, case), flush=True)
        results.save(found, path)


def selected(names: list[str], asked: list[str] | None, policies: list[str] | None) -> list[str]:
    """The cases of these names, or that begin with them as whole words; of these policies alone.

    Raises:
        SystemExit: a name fits none.
    """
    chosen = []
    for each in asked or []:
        fits = [name for name in names if name == each]
        fits = fits or [name for name in names if name.startswith(f"{each} ")]
        if not fits:
            raise SystemExit(f"no case is called {each!r}: {', '.join(names)}")
        chosen += fits
    kept = [name for name in names if not asked or name in chosen]
    return [n for n in kept if n.split()[-1] in policies] if policies else kept


@contextmanager
def session(found: dict[str, Any]) -> Iterator[list[tuple[str, Measure]]]:
    """Every case by name, with what several of them need made once.

    Runs keep what they measure of the machine for each other, and for no run of the user's.
    """

    @cache
    def peaks() -> dict[str, Any]:
        found["peaks"] = device_peaks()
        return found["peaks"]

    with step_time.written() as folder, tempfile.TemporaryDirectory() as tuning:
        os.environ["MPT_CACHE"] = tuning
        yield [*_step_times(folder, peaks), *_others(folder)]


def _step_times(
    folder: Callable[[str], Path], peaks: Callable[[], dict]
) -> Iterator[tuple[str, Measure]]:
    def run(work: str, policy: str, rounds: int) -> dict:
        if reason := pointless(policy, peaks()["kind"], results.machine()):
            return {"policy": policy, "skipped": reason}
        job = step_time.Job(work, policy, folder(work), peaks()["kind"] == "gpu")
        return step_time.case(job, rounds, peaks())

    for work in STEP_TIMES:
        for policy in POLICIES:
            yield (
                f"{work} {policy}",
                lambda rounds, work=work, policy=policy: run(work, policy, rounds),
            )


def pointless(policy: str, kind: str, machine: dict[str, Any]) -> str | None:
    """Why a policy makes no sense on the device; None where it does."""
    if policy == "tf32" and kind == "cpu":
        return "a GPU's"
    for half in ("bfloat16", "float16"):
        if policy == f"mixed_{half}" and kind == "cpu" and not machine[f"{half}_units"]:
            return f"this CPU has no {half} units, and TensorFlow emulates the type"
    return None


def device_peaks() -> dict[str, Any]:
    command = [sys.executable, "-m", "mpt", "doctor", "--peaks", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return dict(json.loads(done.stdout))


def _others(folder: Callable[[str], Path]) -> Iterator[tuple[str, Measure]]:
    for work in startup.WORKS:
        yield f"start-up {work}", lambda rounds, work=work: startup.first_step(work, rounds)
    for work in ("cnn", "mlp"):
        yield (
            f"telemetry {work}",
            lambda rounds, work=work: telemetry(work, rounds, folder(work)),
        )
    yield from {"digits": digits, "end of a run": end_of_run, "command line": command_line}.items()
    yield "fused normalization", fused_normalization
    yield "histograms", gradient_histograms
    for work in ("mlp of 32", "resnet20 of 32"):
        yield (
            f"accumulation {work}",
            lambda rounds, work=work: accumulation.case(work, rounds, mpt_step_ms),
        )
    yield "image folder", image_folder.case
    for work in scaling.BATCH:
        yield f"devices {work}", lambda rounds, work=work: scaling.devices(work, rounds)
        yield f"workers {work}", lambda rounds, work=work: scaling.workers(work, rounds)
    yield "checkpoints", checkpoints.cost
    yield "resume", lambda rounds: resume.first_step("digits", rounds)
    yield "resume resnet20", lambda rounds: resume.first_step("resnet20", rounds)


def telemetry(work: str, rounds: int, folder: Path) -> dict:
    """A step with all telemetry against one with telemetry=minimal."""
    job = step_time.Job(work, "float32", folder)

    def step(*overrides: str) -> float:
        return step_time.mpt_step(job, *overrides)["step_ms"]

    sides: dict[str, Side] = {"on": step, "off": lambda: step("telemetry=minimal")}
    return {"kind": "telemetry", **compared(in_turn(sides, rounds), "on", "off", TELEMETRY)}


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
    times = last_json([sys.executable, "-m", "bench.histograms", str(20 * rounds)])
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
    """Step time of a real run on random examples, as its report has it; all telemetry on."""
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


def wall(words: list[str]) -> float:
    start = time.perf_counter()
    command = [str(Path(sys.executable).with_name("mpt")), *words]
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start


def row(name: str, result: dict) -> str:
    """One line for the terminal."""
    if result.get("kind") == "step time":
        return step_row(name, result)
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


def step_row(name: str, case: dict) -> str:
    """The same of a step time."""
    said = [f"mpt {case['medians']['mpt']:.2f} ms"]
    for peer in targets.EACH:
        if figure := targets.against(case, peer):
            label = case["best"][peer]
            said.append(f"{label} {case['medians'][label]:.2f} ms, {documents.shown(figure)}")
    said.append(f"share of the peak {documents.shown(targets.share(case))}")
    said += ["void"] if targets.is_void(case) else []
    return f"{name:<30}{'; '.join(said)}"


if __name__ == "__main__":
    sys.exit(main())
