"""What the project asks of itself, and whether the figures reach it.

Stated for two CPU cores with bfloat16 units, all of mpt's telemetry on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.verdicts import geometric_mean, ratios
from bench.work import WORKS

Case = dict[str, Any]
EACH = {"keras": 1.00, "torch": 1.05}
NORMALIZED, MLP = 0.60, 0.80  # against Keras: BatchNormalization in mixed_bfloat16; mlp with Adam
ALL_KERAS, POLICY_TORCH = 0.85, 0.90  # geometric means
SHARES = {"mlp": 0.70, "transformer": 0.40}
NAMES = {"keras": "Keras `fit`", "torch": "PyTorch"}


@dataclass(frozen=True)
class Figure:
    """A number beside its target.

    Attributes:
        low, high: over the rounds; None where it is of medians.
        least: whether the target is the least that it may be.
    """

    value: float
    target: float | None
    low: float | None = None
    high: float | None = None
    least: bool = False

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        value = round(self.value, 3)  # as it is shown
        return value >= self.target if self.least else value <= self.target


def step_times(results: dict[str, Any]) -> list[Case]:
    """The cases that time a step, as WORKS has them; by policy."""
    found = [case for case in results["cases"].values() if case.get("kind") == "step time"]
    order = list(WORKS)
    policies = ("float32", "tf32", "mixed_bfloat16", "mixed_float16")
    return sorted(
        found, key=lambda case: (policies.index(case["policy"]), order.index(case["work"]))
    )


def is_void(case: Case) -> bool:
    """Whether the sides' losses say that they did not do the same work."""
    return not case["losses"]["agree"]


def against(case: Case, peer: str) -> Figure | None:
    """mpt's step over the peer's best setting's, round by round; None: the peer has no figure."""
    if peer not in case["best"]:
        return None
    each = ratios(case["times"], case["best"]["mpt"], case["best"][peer])
    return Figure(median(each), _most(case, peer), min(each), max(each))


def _most(case: Case, peer: str) -> float:
    if peer == "keras" and case["work"] == "mlp":
        return MLP
    if peer == "keras" and case["policy"] == "mixed_bfloat16" and WORKS[case["work"]].normalized:
        return NORMALIZED
    return EACH[peer]


def share(case: Case) -> Figure | None:
    """Of the measured peak of matrix products; None where the peak or the work is not known."""
    flops, peak = case.get("flops_per_step"), case.get("peak_flops_per_second")
    if not flops or not peak:
        return None
    seconds = case["medians"]["mpt"] / 1e3
    target = SHARES.get(case["work"]) if case["policy"] != "mixed_float16" else None
    return Figure(flops / seconds / peak, target, least=True)


def mean(cases: Iterable[Case], peer: str, target: float | None) -> Figure | None:
    """The geometric mean of the ratios of those cases that are not void."""
    found = [against(case, peer) for case in cases if not is_void(case)]
    value = geometric_mean(each.value for each in found if each is not None)
    return None if value is None else Figure(value, target)


def means(cases: Sequence[Case]) -> list[tuple[str, Figure]]:
    """The geometric means, each with what it is of."""
    found = [(f"all cases, to {NAMES['keras']}", mean(cases, "keras", ALL_KERAS))]
    for policy in dict.fromkeys(case["policy"] for case in cases):
        own = [case for case in cases if case["policy"] == policy]
        found.append((f"{policy}, to {NAMES['keras']}", mean(own, "keras", None)))
        found.append((f"{policy}, to {NAMES['torch']}", mean(own, "torch", POLICY_TORCH)))
    return [(name, figure) for name, figure in found if figure is not None]


def speed_ups(cases: Sequence[Case]) -> list[tuple[str, str, float]]:
    """(work, policy, step over float32's best one, by XLA or not), of mpt alone."""
    wide = {case["work"]: _best_of_mpt(case) for case in cases if case["policy"] == "float32"}
    return [
        (case["work"], case["policy"], case["medians"]["mpt"] / wide[case["work"]])
        for case in cases
        if case["policy"] != "float32" and case["work"] in wide
    ]


def _best_of_mpt(case: Case) -> float:
    pilots = [ms for label, ms in case["pilot"].items() if label.startswith("mpt: ")]
    return min([case["medians"]["mpt"], *pilots])
