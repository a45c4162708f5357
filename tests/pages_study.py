"""Folders of a study that never ran: three policies, five seeds, and what can go wrong."""

import json
import math
import random
from pathlib import Path
from typing import Any

from mpt.report import from_json

POLICIES = {
    # examples a second, device memory in bytes, accuracy
    "float32": (1000.0, 8.0e9, 0.980),
    "mixed_bfloat16": (1800.0, 4.7e9, 0.9805),
    "mixed_float16": (1650.0, 4.8e9, 0.979),
}
STEPS = 2000


def report(policy: str, seed: int, path: Path, **changes: Any) -> dict[str, Any]:
    """A report as a run leaves it. `changes` are top-level keys."""
    noise = random.Random(f"{policy}{seed}")
    speed, memory, accuracy = POLICIES[policy]
    speed *= 1 + 0.01 * noise.gauss(0, 1)
    accuracy = round(accuracy + 0.0015 * noise.gauss(0, 1), 6)
    scaled = policy == "mixed_float16"
    content = {
        "schema_version": 1,
        "mpt_version": "0.1",
        "run_id": f"{policy}-{seed}",
        "name": f"cnn_{policy}",
        "command": ["mpt", "train", f"precision={policy}", f"seed={seed}"],
        "started_at": f"2026-01-01T{list(POLICIES).index(policy):02d}:{seed:02d}:00Z",
        "ended_at": f"2026-01-01T{list(POLICIES).index(policy):02d}:{seed:02d}:50Z",
        "status": "completed",
        "exit_code": 0,
        "config": {
            "seed": seed,
            "name": "auto",
            "monitor": "validation/accuracy",
            "batch_size": 128,
            "run_dir": str(path),
            "model": {"name": "cnn", "filters": 32},
            "dataset": {"name": "digits"},
            "precision": {"policy": policy, "tf32": False},
            "loss_scale": {"mode": "auto"},
            "published": [
                {"source": "A vendor, 2018", "device": "V100", "speedup": 1.7, "accuracy": "0.98"}
            ],
        },
        "environment": {
            "python": "3.11.7",
            "tensorflow": "2.21.0",
            "keras": "3.15.1",
            "os": "Linux",
            "host": "here",
            "git_commit": "0123abc",
        },
        "device": {"kind": "gpu", "name": "NVIDIA T4", "count": 1, "concurrent_jobs": 1},
        "precision": {
            "requested": policy,
            "policy": policy,
            "reason": "asked for",
            "tf32": False,
            "table": [
                {
                    "path": path,
                    "class": "Dense",
                    "variable_dtype": "float32",
                    "compute_dtype": "float32" if source == "head" else policy[6:] or "float32",
                    "source": source,
                }
                for path, source in (("dense", "global"), ("head", "head"))
            ],
        },
        "execution": {"steps_per_execution": 8, "jit_compile": False, "choice_reasons": {}},
        "model": {"parameters": 1_200_000, "forward_flops_per_example": 2e8},
        "data": {
            "name": "digits",
            "train_examples": 60000,
            "validation_examples": 10000,
            "bad_rows": 0,
            "fingerprint": "f" * 64,
        },
        "training": {"steps": STEPS, "epochs": 4.0, "batch_size": 128},
        "throughput": {
            "examples_per_second": speed,
            "step_time_ms": {
                "median": 128e3 / speed,
                "p10": 120e3 / speed,
                "p90": 140e3 / speed,
            },
            "warmup_steps": 20,
            "measured_steps": STEPS - 20,
            "data_wait_fraction": 0.02,
        },
        "memory": {
            "device_peak_bytes": int(memory * (1 + 0.002 * noise.random())),
            "host_rss_peak_bytes": 2_100_000_000 + seed * 1_000_000,
        },
        "loss_scale": {
            "mode": "dynamic" if scaled else "none",
            "initial": 32768.0 if scaled else 1.0,
            "final": 65536.0 if scaled else 1.0,
            "min": 16384.0 if scaled else 1.0,
            "max": 65536.0 if scaled else 1.0,
            "skipped_steps": 2 if scaled else 0,
            "max_consecutive_skips": 1 if scaled else 0,
            "last_overflow_step": 1600 if scaled else None,
            "history": [[400, 16384.0], [900, 32768.0], [1400, 65536.0], [1600, 32768.0]]
            if scaled
            else [],
        },
        "compute": {"model_flops_per_second": 6e8 * speed, "utilization": 0.31},
        "metrics": {
            "final": {
                "train/loss": 0.05,
                "validation/loss": 0.07,
                "validation/accuracy": accuracy,
            },
            "best": {"value": accuracy + 0.0005, "step": 1900, "name": "validation/accuracy"},
        },
        "wall_seconds": {"total": 300.0, "train": 128 * STEPS / speed},
        "warnings": [],
        "diagnosis": [],
    }
    return {**content, **changes}


def metrics(content: dict[str, Any], steps: int = STEPS) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that go with a report."""
    noise = random.Random(content["run_id"])
    speed = content["throughput"]["examples_per_second"]
    accuracy = content["metrics"]["final"]["validation/accuracy"]
    scaled = content["loss_scale"]["mode"] == "dynamic"
    rows = []
    for step in range(50, steps + 1, 50):
        learned = math.exp(-step / 400)
        row = {
            "step": step,
            "epoch": step // 500,
            "wall_seconds": 128 * step / speed,
            "train/loss": 0.05 + 2.2 * learned + 0.02 * noise.random(),
            "loss_scale/scale": 32768.0 if scaled else 1.0,
            "loss_scale/skipped_steps": (step >= 400) + (step >= 1600) if scaled else 0,
        }
        if step % 200 == 0:
            row["validation/loss"] = 0.07 + 2.2 * learned
            row["validation/accuracy"] = accuracy - 0.9 * learned * (step < steps)
        rows.append(row)
    return rows


def write(folder: Path, content: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """A run's folder with a report and its metrics, the report checked."""
    from_json(content)
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study(folder: Path, seeds: int = 5, *, name: str = "cnn") -> Path:
    """Three policies with `seeds` each; with five, a failure and what cannot be read, too."""
    for policy in POLICIES:
        for seed in range(seeds):
            path = folder / f"{policy}_{seed}"
            content = report(policy, seed, path)
            content["config"]["model"]["name"] = name
            rows = metrics(content)
            write(path, content, rows)
    if seeds >= 5:
        _failed(folder)
        half = folder / "half_written"
        half.mkdir()
        (half / "report.json").write_text('{"schema_version": 1, "na')
        (folder / "killed").mkdir()
        (folder / "killed" / "metrics.jsonl").write_text("")
    return folder


def _failed(folder: Path) -> None:
    content = report("mixed_float16", 5, folder / "diverged")
    content |= {
        "status": "diverged",
        "exit_code": 3,
        "reason": {
            "rule": "max_consecutive_skips",
            "step": 700,
            "message": "50 steps in a row were skipped",
        },
    }
    content["metrics"] = {"final": {"train/loss": "NaN"}, "best": None}
    content["throughput"] = {}
    rows = metrics(report("mixed_float16", 5, folder), 700)
    for row in rows[-3:]:
        row["train/loss"] = "NaN"
    write(folder / "diverged", content, rows)
