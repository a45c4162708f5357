"""A step's time on every side: mpt with all telemetry on, bare Keras `fit`, PyTorch.

A pilot measures each setting of each peer once. Those near a peer's best one go on to the rounds,
in fresh processes, the sides in turn. Then the sides run the same 50 steps, and where their losses
do not agree, the comparison is void: they did not do the same work.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import verdicts
from bench.measure import ROOT, Failed, Side, environment, in_turn, last_json, trained
from bench.work import DATA, WEIGHTS, WORKS, Work

NEAR = 1.07
"""A setting whose pilot took up to this multiple of its peer's best goes on to the rounds."""
MOST = 2
"""Settings of one peer that go on at the most: each takes a minute of every case."""
LOSS_STEPS, LAST = 50, 5
"""Steps whose losses are compared: the first one, and the mean of the last ones."""
TOLERANCES = {
    "float32": (1e-4, 0.02),
    "tf32": (2e-3, 0.05),
    "mixed_float16": (5e-3, 0.05),
    "mixed_bfloat16": (5e-3, 0.05),
}
"""By policy: how far apart losses may lie, over the largest: at the first step, at the last."""
XLA = "XLA"
"""mpt's own other setting: the pilot's figure serves the ratio of two policies."""
TORCH = "MPT_TORCH_PYTHON"


@dataclass(frozen=True)
class Job:
    """One work under one policy.

    Attributes:
        folder: with the work's data and weights.
        on_gpu: steps are short there: more of them are measured, and more of them make a call.
    """

    work: str
    policy: str
    folder: Path
    on_gpu: bool = False

    @property
    def plan(self) -> Work:
        planned = WORKS[self.work]
        return replace(planned, warmup=32, steps=320, group=16) if self.on_gpu else planned


@dataclass(frozen=True)
class Setting:
    """One way to run one side.

    Attributes:
        side: mpt, keras or torch.
        name: of the setting.
        options: what the side's program is told.
    """

    side: str
    name: str
    options: dict[str, Any]

    @property
    def label(self) -> str:
        return f"{self.side}: {self.name}" if self.name else self.side


def settings(job: Job) -> list[Setting]:
    """All that a pilot measures; of mpt itself what it chooses is timed in the rounds."""
    group = job.plan.group
    fixed = {"group": group, "autotune": False}
    found = [
        Setting("mpt", "", {}),
        Setting("keras", "as written", {"group": 1, "jit_compile": "auto", "autotune": True}),
        Setting("keras", f"{group} a call", {**fixed, "jit_compile": False}),
        Setting("keras", f"{group} a call, XLA", {**fixed, "jit_compile": True}),
        Setting("torch", "eager", {}),
        Setting("torch", "compile", {"compile": True}),
    ]
    if job.policy == "float32":
        found.append(Setting("mpt", XLA, {"trainer.jit_compile": "true"}))
    if len(job.plan.shape) == 3:
        last = {"channels_last": True}
        found.append(Setting("torch", "eager, channels last", last))
        found.append(Setting("torch", "compile, channels last", {**last, "compile": True}))
    return found


def near(pilot: dict[str, float]) -> list[str]:
    """The settings of one peer that go on, the fastest first."""
    best = min(pilot.values(), default=0.0)
    kept = [name for name, ms in pilot.items() if ms <= NEAR * best]
    return sorted(kept, key=lambda name: pilot[name])[:MOST]


@contextmanager
def written() -> Iterator[Callable[[str], Path]]:
    """A function from a work to the folder of its data and weights, which it writes once."""
    with tempfile.TemporaryDirectory() as folder:

        def of(work: str) -> Path:
            path = Path(folder) / work
            if not path.exists():
                path.mkdir()
                command = [sys.executable, "-m", "bench.work", work, str(path)]
                subprocess.run(command, check=True, env=environment(), cwd=ROOT)
            return path

        yield of


def case(job: Job, rounds: int, peaks: dict[str, Any]) -> dict:
    """Pilot, rounds and losses of one job.

    Args:
        peaks: what `mpt doctor --peaks --json` says.
    """
    known = {each.label: each for each in settings(job)}
    found, skipped = _pilot(known, job)
    pilot = {label: also.pop("step_ms") for label, also in found.items()}
    if "mpt" not in pilot:
        raise SystemExit(f"mpt did not run {job.work} under {job.policy}: {skipped['mpt']}")
    peers = {
        side: near({label: ms for label, ms in pilot.items() if known[label].side == side})
        for side in ("keras", "torch")
    }
    by_side = {"mpt": ["mpt"], **{side: labels for side, labels in peers.items() if labels}}
    sides: dict[str, Side] = {
        label: lambda each=known[label]: measured(each, job)["step_ms"]
        for labels in by_side.values()
        for label in labels
    }
    times = in_turn(sides, rounds)
    medians = {label: median(values) for label, values in times.items()}
    best = {side: min(labels, key=medians.__getitem__) for side, labels in by_side.items()}
    flops = found["mpt"].pop("flops_per_step")
    return {
        "kind": "step time",
        "work": job.work,
        "policy": job.policy,
        "batch": job.plan.batch,
        "learning_rate": job.plan.rate,
        "unit": "ms",
        "pilot": pilot,
        "also": {label: also for label, also in found.items() if also},
        "times": times,
        "medians": medians,
        "best": best,
        "not_measured": skipped,
        "flops_per_step": flops,
        "peak_flops_per_second": verdicts.peak_of(peaks, job.policy),
        "losses": losses(job, {side: known[best[side]] for side in best}),
    }


def _pilot(known: dict[str, Setting], job: Job) -> tuple[dict[str, dict], dict[str, str]]:
    """What each setting tells in one process, and why others were not measured; both by label."""
    found: dict[str, dict] = {}
    skipped: dict[str, str] = {}
    for label, each in known.items():
        if each.side == "torch" and TORCH not in os.environ:
            skipped["torch"] = f"{TORCH} is not set"
            continue
        try:
            found[label] = measured(each, job)
        except Failed as error:
            skipped[label] = str(error)
    return found, skipped


def measured(setting: Setting, job: Job) -> dict[str, Any]:
    """`step_ms` of one fresh process, and what else it tells.

    Raises:
        Failed: it ended with an error.
    """
    if setting.side == "mpt":
        return mpt_step(job, *(f"{key}={value}" for key, value in setting.options.items()))
    group = setting.options.get("group", 1)
    warmup = -(-job.plan.warmup // group) * group  # whole calls
    return peer(setting, job, warmup=warmup, steps=job.plan.steps)


def peer(setting: Setting, job: Job, **asked: Any) -> dict[str, Any]:
    """What the peer's program prints."""
    python, module = sys.executable, "bench.keras_fit"
    if setting.side == "torch":
        python, module = os.environ[TORCH], "bench.torch_fit"
    told = {"work": job.work, "policy": job.policy, "folder": str(job.folder)}
    return last_json([python, "-m", module, json.dumps({**told, **setting.options, **asked})])


def mpt_words(job: Job, steps: int) -> list[str]:
    """Overrides of a run on the work's data, from its weights."""
    plan = job.plan
    return [
        *plan.overrides,
        *("dataset=arrays", f"dataset.path={job.folder / DATA}", "dataset.shuffle=false"),
        *("dataset.validation_fraction=0", f"dataset.classes={plan.classes}"),
        *(f"init_from={job.folder / WEIGHTS}", f"batch_size={plan.batch}"),
        *(f"optimizer.learning_rate={plan.rate}", f"precision={job.policy}"),
        f"precision.head={plan.head}",
        *(f"trainer.steps={steps}", "trainer.epochs=null"),
    ]


def mpt_step(job: Job, *overrides: str) -> dict[str, Any]:
    """The step time of a real run, as its report has it, and the floating-point operations."""
    plan = job.plan
    words = mpt_words(job, plan.warmup + plan.steps)
    with trained(*words, f"trainer.warmup_steps={plan.warmup}", *overrides) as run:
        report = json.loads((run / "report.json").read_text())
    forward = report["model"]["forward_flops_per_example"]
    found = {
        "step_ms": 1e3 * plan.batch / report["throughput"]["examples_per_second"],
        "flops_per_step": 3 * forward * plan.batch if forward else None,
        "execution": report["execution"],
        "tuning_seconds": report["wall_seconds"]["tuning"],
    }
    if peak := report["memory"]["device_peak_bytes"]:
        found["peak_mib"] = peak / 2**20
    return found


def losses(job: Job, sides: dict[str, Setting]) -> dict[str, Any]:
    """Whether all sides' losses agree, at the first step and after 50."""
    curves = {}
    for side, setting in sides.items():
        if side == "mpt":
            curves[side] = _mpt_losses(job)
        else:
            single = {"group": 1} if side == "keras" else {}
            told = {**single, "steps": LOSS_STEPS, "losses": True}
            curves[side] = peer(setting, job, **told)["losses"]
    return verdicts.agreement(curves, *TOLERANCES[job.policy], LAST)


def _mpt_losses(job: Job) -> list[float]:
    with trained(*mpt_words(job, LOSS_STEPS), "trainer.log_every=1") as run:
        rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [row["train/loss"] for row in rows if "train/loss" in row]
