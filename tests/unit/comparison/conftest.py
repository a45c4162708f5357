"""Runs that never ran: folders with the report and the metrics that a comparison reads."""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mpt.report import RunReport

START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG: dict[str, Any] = {
    "seed": 0,
    "name": "auto",
    "monitor": "validation/accuracy",
    "monitor_mode": "auto",
    "batch_size": 128,
    "run_dir": "",
    "resume": None,
    "recipe": None,
    "published": [],
    "model": {"name": "cnn", "_target_": "mpt.models.cnn.build", "filters": 32},
    "dataset": {"name": "digits", "_target_": "mpt.data.digits.build", "shuffle": True},
    "optimizer": {"name": "adam", "learning_rate": 0.001},
    "precision": {"policy": "float32", "tf32": False, "head": "float32", "overrides": []},
    "loss_scale": {"mode": "auto", "initial_scale": 32768.0},
    "trainer": {"epochs": None, "steps": 1000, "steps_per_execution": "auto"},
}
REPORT: dict[str, Any] = {
    "run_id": "0",
    "name": "cnn_float32",
    "command": ["mpt", "train"],
    "status": "completed",
    "exit_code": 0,
    "environment": {
        "python": "3.11.7",
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "host": "here",
    },
    "device": {"kind": "cpu", "name": "EPYC", "count": 1, "concurrent_jobs": 1},
    "precision": {"requested": "float32", "policy": "float32", "tf32": False},
    "execution": {"steps_per_execution": 1, "jit_compile": False, "choice_reasons": {}},
    "model": {"parameters": 1000, "forward_flops_per_example": 1e6},
    "data": {
        "name": "digits",
        "train_examples": 1438,
        "validation_examples": 359,
        "fingerprint": "a" * 64,
    },
    "training": {"steps": 1000, "batch_size": 128},
    "throughput": {
        "examples_per_second": 1000.0,
        "step_time_ms": {"median": 128.0, "p10": 120.0, "p90": 140.0},
        "data_wait_fraction": 0.01,
    },
    "memory": {"host_rss_peak_bytes": 2**30},
    "loss_scale": {"mode": "none", "final": 1.0, "skipped_steps": 0},
    "metrics": {
        "final": {"train/loss": 0.1, "validation/loss": 0.1, "validation/accuracy": 0.98},
        "best": {"value": 0.98, "step": 1000, "name": "validation/accuracy"},
    },
    "wall_seconds": {"total": 50.0, "train": 40.0},
}


class Runs:
    """Writes runs, one after another in time, below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0

    def __call__(
        self,
        name: str | None = None,
        *,
        seed: int = 0,
        policy: str = "float32",
        speed: float = 1000.0,
        accuracy: float = 0.98,
        rows: list[dict[str, Any]] | None = None,
        **changes: Any,
    ) -> Path:
        """One run.

        Args:
            name: of its folder, below `folder`.
            speed: examples a second.
            rows: of metrics.jsonl; None writes no such file.
            changes: keys of the report, with "__" for a dot: device__kind="gpu".
        """
        path = self.folder / (name or str(self.count))
        report = copy.deepcopy(REPORT)
        report["config"] = copy.deepcopy(CONFIG)
        start = START + timedelta(minutes=self.count)
        defaults = {
            "config__seed": seed,
            "config__precision__policy": policy,
            "config__run_dir": str(path),
            "precision__requested": policy,
            "precision__policy": "float32" if policy == "tf32" else policy,
            "throughput__examples_per_second": speed,
            "throughput__step_time_ms__median": 128000.0 / speed,
            "metrics__final__validation/accuracy": accuracy,
            "metrics__best__value": accuracy,
            "started_at": start.isoformat(),
            "ended_at": (start + timedelta(seconds=50)).isoformat(),
        }
        for dotted, value in {**defaults, **changes}.items():
            *parents, last = dotted.split("__")
            node = report
            for key in parents:
                if not isinstance(node.get(key), dict):
                    node[key] = {}
                node = node[key]
            node[last] = value
        self.count += 1
        path.mkdir(parents=True)
        content = RunReport(**_flat(report)).to_json()
        (path / "report.json").write_text(json.dumps({**content, **report}))
        if rows is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (path / "metrics.jsonl").write_text(lines)
        return path


def _flat(report: dict[str, Any]) -> dict[str, Any]:
    """What a report must have; the rest stands beside it as it is."""
    return {key: report[key] for key in ("run_id", "name", "command", "started_at", "config")}


@pytest.fixture
def write_run(tmp_path: Path) -> Runs:
    """`write_run(seed=1, policy="mixed_bfloat16", speed=1800.0)` makes one run's folder."""
    return Runs(tmp_path / "runs")


Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def learning() -> Rows:
    """Rows of a metrics.jsonl in which the accuracy rises to `accuracy`, a second a row."""

    def rows(accuracy: float, count: int = 10, **more: Any) -> list[dict[str, Any]]:
        return [
            {
                "step": 100 * (index + 1),
                "epoch": index,
                "wall_seconds": float(index + 1),
                "train/loss": 1.0 / (index + 1),
                "validation/accuracy": accuracy * (index + 1) / count,
                "loss_scale/scale": 1.0,
                "loss_scale/skipped_steps": 0.0,
                **more,
            }
            for index in range(count)
        ]

    return rows
