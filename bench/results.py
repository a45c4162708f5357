"""The measured figures of one kind of machine, in one file that grows case by case."""

import json
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import ROOT

FOLDER = ROOT / "bench/results"


def machine() -> dict[str, Any]:
    """What the figures are measured on, without TensorFlow."""
    from mpt.device import BFLOAT16_FLAGS, FLOAT16_FLAGS, cores, parse_cpuinfo

    name, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    return {
        "cpu": name,
        "cores": cores(),
        "bfloat16_units": bool(flags & BFLOAT16_FLAGS),
        "float16_units": bool(flags & FLOAT16_FLAGS),
    }


def versions() -> dict[str, str]:
    return {
        "mpt": version("mpt-keras"),
        "python": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
    }


def path_of(machine: dict[str, Any]) -> Path:
    """Where the figures of such machines lie."""
    units = "-bf16" if machine["bfloat16_units"] else ""
    name = f"{machine['cpu']}-{machine['cores']}-cores{units}"
    return FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def load(path: Path) -> dict[str, Any]:
    """What was measured before, or nothing yet."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    return {"cases": {}}


def merge(results: dict[str, Any], name: str, case: dict[str, Any], rounds: int) -> None:
    """Put a case into `results`, in place of an earlier measurement of it."""
    told = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "rounds": rounds,
        "machine": machine(),
        "versions": versions(),
    }
    results["cases"][name] = {**told, **case}


def save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    whole.write_text(json.dumps(_rounded(results), indent=1) + "\n")
    whole.replace(path)


def _rounded(value: Any) -> Any:
    """Numbers with six digits: the rest is noise, and half of the file."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
