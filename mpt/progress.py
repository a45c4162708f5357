"""How far training is to go, and how far it came."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        checkpoint: the one that was written last; None where none was, or it failed.
        rollbacks: one entry for each time the run went back: from_step, to_step, rule.
    """

    status: str = "completed"
    reason: Reason | None = None
    steps: int = 0
    final: Values = field(default_factory=dict)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"train": 0.0, "evaluate": 0.0, "diagnose": 0.0, "save": 0.0}
    )
    checkpoint: Path | None = None
    rollbacks: list[dict[str, Any]] = field(default_factory=list)


def epochs(steps: int, steps_per_epoch: int) -> int:
    """Epochs that were at least begun."""
    return math.ceil(steps / steps_per_epoch)
