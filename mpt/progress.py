"""How far training is to go, and how far it came."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpt.state_fields import Fields
from mpt.stopping import Reason

Values = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    eval_every: int
    checkpoint_every: int | None = None

    def next_edge(self, step: int) -> int:
        """The first step after `step` at which the host has something to do."""
        periods = [self.log_every, self.eval_every, self.steps_per_epoch]
        if self.checkpoint_every is not None:
            periods.append(self.checkpoint_every)
        return min(self.total_steps, *((step // period + 1) * period for period in periods))


@dataclass
class Outcome:
    """How training ended.

    Attributes:
        status: completed, stopped_early, diverged or interrupted.
        final: last value of each `train/*` and `validation/*` tag.
        seconds: wall time by activity: train, evaluate, diagnose, save.
        rollbacks: one entry for each time the run went back: from_step, to_step, rule.
    """

    status: str = "completed"
    reason: Reason | None = None
    steps: int = 0
    final: Values = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "diagnose": 0.0, "save": 0.0}
    )
    rollbacks: list[dict[str, Any]] = field(default_factory=list)


def epochs(steps: int, steps_per_epoch: int) -> int:
    """Epochs that were at least begun."""
    return math.ceil(steps / steps_per_epoch)


def kept_rows(rows: dict[str, Any], columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What was measured of some steps, of a kept state; empty where there are none.

    Args:
        columns: the names that it has.

    Raises:
        ValueError: it is no such thing.
    """
    if not rows:
        return {}
    kept = Fields(rows, *columns)
    found = {name: kept.array(name, "float32") for name in columns}
    if len({len(column) for column in found.values()}) != 1:
        raise ValueError("what was measured of the steps is not as long for each")
    return found


def kept_rollback(entry: Any) -> dict[str, Any]:
    """One entry of an outcome's `rollbacks`, of a kept state; else ValueError."""
    kept = Fields(entry, "from_step", "to_step", "rule")
    steps = {name: kept.whole(name) for name in ("from_step", "to_step")}
    return {**steps, "rule": kept.text("rule")}
