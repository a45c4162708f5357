"""How far training is to go, and how far it came."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mpt.state_fields import Fields, number
from mpt.stopping import Reason
from mpt.telemetry.window import OpenWindow, Rows

Values = dict[str, float]

ACTIVITIES = ("train", "evaluate", "diagnose", "save")


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
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    rollbacks: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Count the block's wall time as that of `activity`."""
        start = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - start

    @property
    def beside(self) -> float:
        """Seconds of what is not training."""
        return sum(value for name, value in self.seconds.items() if name != "train")


@dataclass(frozen=True)
class Standing:
    """Where training stands at the edge of a step, as a checkpoint has it.

    Attributes:
        step: the last one that was trained on.
        left_out: batches of the data that were left out before it.
        drained_at: the last logged step.
        pending: what was measured of the steps since then.
        window_seconds: wall time of these steps, s.
        final, seconds, rollbacks: as in `Outcome`.
        stopped: why a run that stopped early did; None: it did not.
        edge_due: a signal cut short what is due at the step.
    """

    step: int
    left_out: int
    drained_at: int
    pending: Rows
    window_seconds: float
    final: Values
    seconds: dict[str, float]
    rollbacks: list[dict[str, Any]]
    stopped: Reason | None
    edge_due: bool

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        window: OpenWindow,
        left_out: int,
        stopped: Reason | None,
        *,
        edge_due: bool,
    ) -> "Standing":
        """That of a run which has come to `outcome`, with `window` still open."""
        return cls(
            step=outcome.steps,
            left_out=left_out,
            drained_at=window.since,
            pending=window.rows,
            window_seconds=window.seconds,
            final=outcome.final,
            seconds=outcome.seconds,
            rollbacks=outcome.rollbacks,
            stopped=stopped,
            edge_due=edge_due,
        )

    def state(self) -> dict[str, Any]:
        """Plain values and arrays, copied where they grow."""
        return {
            **vars(self),
            "final": dict(self.final),
            "seconds": dict(self.seconds),
            "rollbacks": list(self.rollbacks),
            "stopped": asdict(self.stopped) if self.stopped else None,
        }

    @classmethod
    def kept(cls, state: dict[str, Any], columns: tuple[str, ...]) -> "Standing":
        """That of a kept state.

        Args:
            columns: what is measured of each step.

        Raises:
            ValueError: it is no such state.
        """
        kept = Fields(state, *(field.name for field in fields(cls)))
        step, left_out, drained_at = (kept.whole(n) for n in ("step", "left_out", "drained_at"))
        if drained_at > step:
            raise ValueError(f"the last logged step is {drained_at}, the present one {step}")
        spent = Fields(kept.part("seconds"), *ACTIVITIES)
        return cls(
            step=step,
            left_out=left_out,
            drained_at=drained_at,
            pending=_kept_rows(kept.mapping("pending"), columns),
            window_seconds=kept.seconds("window_seconds"),
            final={tag: number(value, tag) for tag, value in kept.mapping("final").items()},
            seconds={name: spent.seconds(name) for name in ACTIVITIES},
            rollbacks=[_kept_rollback(each) for each in kept.items("rollbacks")],
            stopped=None if kept.is_none("stopped") else Reason.kept(kept.part("stopped")),
            edge_due=kept.flag("edge_due"),
        )


def epochs(steps: int, steps_per_epoch: int) -> int:
    """Epochs that were at least begun."""
    return math.ceil(steps / steps_per_epoch)


def _kept_rows(rows: dict[str, Any], columns: tuple[str, ...]) -> Rows:
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


def _kept_rollback(entry: Any) -> dict[str, Any]:
    """One entry of an outcome's `rollbacks`, of a kept state; else ValueError."""
    kept = Fields(entry, "from_step", "to_step", "rule")
    steps = {name: kept.whole(name) for name in ("from_step", "to_step")}
    return {**steps, "rule": kept.text("rule")}
