"""The profiles of a machine as Markdown, for docs/performance.md."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import profiles_kinds as kinds
from bench.results import FOLDER
from bench.work import STEP_TIMES

SMALL = 0.005
"""Kinds below this share of a step, in all profiles of a table, are left out of it."""


def documented(folder: Path = FOLDER) -> list[str]:
    """Markdown of all profiles in `folder`: tables by kind, then what differs from PyTorch."""
    profiles = [json.loads(path.read_text()) for path in sorted(folder.glob("profiles-*.json"))]
    order = {work: number for number, work in enumerate(STEP_TIMES)}
    profiles.sort(key=lambda each: (order.get(each["work"], len(order)), each["policy"]))
    lines: list[str] = []
    for policy in sorted({each["policy"] for each in profiles}):
        ours = [p for p in profiles if p["policy"] == policy and p["side"] == "mpt"]
        theirs = [p for p in profiles if p["policy"] == policy and p["side"] == "torch"]
        if ours:
            lines += [f"`{policy}`, ms a step:", "", *table(ours), ""]
        for one in ours:
            peers = [p for p in theirs if p["work"] == one["work"]]
            if peers and not one["setting"]:
                lines += [*difference(one, min(peers, key=lambda each: each["step_ms"])), ""]
    return lines


def table(profiles: Sequence[dict[str, Any]]) -> list[str]:
    """A markdown table: a row a kind, a column a profile."""
    heads = [" ".join([p["work"], *p["setting"]]) for p in profiles]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]

    def row(name: str, cells: Iterable[str]) -> None:
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    for kind in kinds.KINDS:
        values = [p["kinds"].get(kind, {}).get("ms", 0.0) for p in profiles]
        if any(v >= SMALL * p["wall_ms"] for v, p in zip(values, profiles, strict=True)):
            row(kind, map(_cell, values, profiles))
    row("below 0.5% each", (_cell(_left_out(p, profiles), p) for p in profiles))
    row("nothing at work", (_cell(p["rest"]["ms"], p) for p in profiles))
    row("**step**", (f"**{p['wall_ms']:.1f}**" for p in profiles))
    if all("share" in p for p in profiles):
        row("model FLOPs, G", (_number(p["flops_per_step"], 1e-9, 1) for p in profiles))
        row("peak that bounds it", (p["ceiling"] for p in profiles))
        row("that peak, GFLOP/s", (_number(p["peak_flops_per_second"], 1e-9, 0) for p in profiles))
        row("share of it", (_number(p["share"], 1, 2) for p in profiles))
        row("inside of the products", (_number(p["share_inside"], 1, 2) for p in profiles))
        row("MiB of the others, as run", (f"{p['bytes']['moved'] / 2**20:.0f}" for p in profiles))
        row("MiB at the least", (f"{p['bytes']['least'] / 2**20:.0f}" for p in profiles))
        row("ms of these at the bandwidth", (_number(p["least_ms"], 1, 1) for p in profiles))
    return lines


def _left_out(profile: dict[str, Any], profiles: Sequence[dict[str, Any]]) -> float:
    return sum(
        one["ms"]
        for kind, one in profile["kinds"].items()
        if all(p["kinds"].get(kind, {}).get("ms", 0.0) < SMALL * p["wall_ms"] for p in profiles)
    )


def _cell(ms: float, profile: dict[str, Any]) -> str:
    return f"{ms:.1f} ({ms / profile['wall_ms']:.0%})" if ms >= 0.05 else "-"


def _number(value: float | None, scale: float, places: int) -> str:
    return "-" if value is None else f"{value * scale:.{places}f}"


def difference(ours: dict[str, Any], theirs: dict[str, Any], count: int = 4) -> list[str]:
    """A sentence on where two profiles of the same work differ most."""
    gaps = {
        kind: ours["kinds"].get(kind, {}).get("ms", 0.0)
        - theirs["kinds"].get(kind, {}).get("ms", 0.0)
        for kind in kinds.KINDS
    }
    gaps["the rest"] = ours["rest"]["ms"] - theirs["rest"]["ms"]
    largest = sorted(gaps, key=lambda kind: -abs(gaps[kind]))[:count]
    setting = "".join(f", {name.replace('_', ' ')}" for name in theirs["setting"])
    return [
        f"{ours['work']}: mpt {ours['wall_ms']:.1f} ms, PyTorch{setting} "
        f"{theirs['wall_ms']:.1f} ms, each under its profiler. mpt's minus PyTorch's: "
        + ", ".join(f"{kind} {gaps[kind]:+.1f}" for kind in largest)
        + " ms."
    ]
