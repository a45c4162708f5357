"""The facts as rows, and what was found wrong with them, for a console and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mpt.doctor.facts import Facts, Finding, Gpu, TensorFlow
from mpt.doctor.findings import policies
from mpt.doctor.hardware import device
from mpt.policy_choice import choose
from mpt.printable import one_line, path_text
from mpt.report.numbers import size

WIDTH = 12
Rows = Iterator[tuple[str, str]]


def quick_rows(facts: Facts) -> Rows:
    """What needs no TensorFlow, as (name, text)."""
    environment, hardware = facts.environment, facts.hardware
    yield "mpt", facts.mpt
    yield "python", f"{environment.python}, {path_text(environment.executable)}"
    wrong = [package.name for package in environment.packages if package.fits is False]
    count = len(environment.packages)
    if count:
        as_needed = f"{count - len(wrong)} of {count} as needed"
        yield "packages", as_needed if wrong else f"all {count} as needed"
    yield "cpu", f"{one_line(hardware.cpu)}, {hardware.cores} cores; {_units(hardware.units)}"
    if hardware.memory_bytes is not None and hardware.available_bytes is not None:
        text = f"{size(hardware.available_bytes)} free of {size(hardware.memory_bytes)}"
        yield "memory", text
    for gpu in hardware.gpus:
        yield "gpu", _card(gpu)
    if not hardware.gpus:
        yield "gpu", "none"
    yield "folder", _folder(facts)
    for name, value in environment.variables.items():
        yield "variable", f"{name}={one_line(value)}"
    choice = choose("auto", device(hardware), None)
    yield "precision", f"auto is {choice.policy}: {choice.reason.removeprefix('auto: ')}"
    pays = ", ".join(policies(hardware)) or "none in speed; mixed ones save memory"
    yield "pays", pays


def tensorflow_rows(facts: TensorFlow) -> Rows:
    """What a process with TensorFlow found."""
    if facts.version is None:
        yield "tensorflow", "cannot be imported"
        return
    yield "tensorflow", f"{facts.version}, imported in {facts.import_seconds:.1f} s"
    yield "keras", f"{facts.keras}, with {facts.backend}"
    for name, built, found in (
        ("cuda", facts.cuda_built, facts.cuda_found),
        ("cudnn", facts.cudnn_built, facts.cudnn_found),
    ):
        as_built = f"built for {built}" if built else "built without"
        yield name, f"{as_built}, {f'found {found}' if found else 'none found'}"
    yield "uses", ", ".join(one_line(name) for name in facts.gpus) or "the CPU"
    if facts.xla_seconds is not None:
        yield "xla", f"works: a product compiled in {facts.xla_seconds:.1f} s, and was right"
    else:
        yield "xla", "does not work"


def lines(rows: Rows) -> Iterator[str]:
    """One line a row."""
    for name, text in rows:
        yield f"{name:<{WIDTH}} {text}"


def finding_lines(found: Sequence[Finding]) -> Iterator[str]:
    """Each finding with its remedy, and at the end how many there are."""
    for finding in found:
        yield f"{finding.level}: {one_line(finding.message)}"
        if finding.remedy:
            yield f"  to do:   {one_line(finding.remedy)}"
    problems = sum(finding.level == "problem" for finding in found)
    warnings = sum(finding.level == "warning" for finding in found)
    if not problems and not warnings:
        yield "no problems"
    else:
        yield f"problems: {problems}, warnings: {warnings}"


def document(facts: Facts, found: Sequence[Finding]) -> dict[str, Any]:
    """All of it as plain values; what is not known is None."""
    choice = choose("auto", device(facts.hardware), None)
    return {
        **asdict(facts),
        "precision": {
            "auto": choice.policy,
            "reason": choice.reason,
            "pays": policies(facts.hardware),
        },
        "findings": [asdict(finding) for finding in found],
    }


def _units(units: Sequence[str]) -> str:
    kept = [name for name in units if name != "avx"]
    return ", ".join(kept) if kept else "no vector units known"


def _card(gpu: Gpu) -> str:
    parts = [one_line(gpu.name)]
    if gpu.compute_capability:
        major, minor = gpu.compute_capability
        parts.append(f"compute capability {major}.{minor}")
    if gpu.memory_bytes and gpu.free_bytes is not None:
        parts.append(f"{size(gpu.free_bytes)} free of {size(gpu.memory_bytes)}")
    if gpu.driver:
        parts.append(f"driver {gpu.driver}")
    return ", ".join(parts)


def _folder(facts: Facts) -> str:
    environment = facts.environment
    if environment.folder is None:
        return "removed"
    state = "writable" if environment.folder_writable else "not writable"
    free = environment.folder_free_bytes
    room = f", {size(free)} free" if free is not None else ""
    return f"{path_text(environment.folder)}, {state}{room}"
