"""Rules on steps that change nothing: gradients that are all zero, a loss that never moves."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpt.state_fields import Fields, finite
from mpt.stopping.reason import Causes, Reason
from mpt.stopping.streak import COUNTS, ENDS, Streak, marks
from mpt.telemetry.window import Window

# Of the run's first loss, what is as good as nothing: a clipped log leaves 2e-7 at a perfect fit.
FITTED = 1e-5


class ZeroGradients:
    """`zero_gradients`: in so many applied steps in a row every gradient was exactly 0.

    At a loss of nothing that is what a perfect fit looks like, and counts for nothing. Skipped
    steps neither count nor end the row.
    """

    def __init__(self, limit: int | None):
        self._first_loss: float | None = None
        self._streak = Streak(limit)

    def check(self, window: Window, causes: Causes) -> Reason | None:
        self._first_loss = self._first(window.rows)
        reached = self._streak.follow(window.first, self._marks(window.rows))
        if reached is None:
            return None
        step, since = reached.step, reached.since
        loss = window.rows["loss"][step - window.first]
        advice = causes.advice(since, step) or (
            "it may be underflow, where float16 is computed (mpt probe shows it; try "
            "loss_scale.mode=dynamic), dead units (try another seed, or a lower "
            "optimizer.learning_rate), or a loss that depends on no trainable weight; a loss that "
            "can go no lower is none of these: set trainer.stop.zero_gradient_steps=null"
        )
        return Reason(
            "zero_gradients",
            step,
            f"all gradients of {reached.count} steps in a row, since step {since}, were exactly 0 "
            f"at a loss of {loss:.4g}: {advice}",
        )

    def sound_after(self, rows: Mapping[str, np.ndarray]) -> bool:
        return not self._streak.runs_after(self._marks(rows))

    def state(self) -> dict[str, Any]:
        return {"first_loss": self._first_loss, "streak": self._streak.state()}

    def restore(self, state: Any) -> None:
        kept = Fields(state, "first_loss", "streak")
        none = kept.is_none("first_loss")
        first = None if none else finite(kept.number("first_loss"), "first_loss", least=0)
        self._streak.restore(kept.part("streak"))
        self._first_loss = first

    def _first(self, rows: Mapping[str, np.ndarray]) -> float | None:
        """Size of the run's first finite loss of an applied step."""
        if self._first_loss is not None:
            return self._first_loss
        losses = rows["loss"][(rows["finite"] > 0) & np.isfinite(rows["loss"])]
        return abs(float(losses[0])) if losses.size else None

    def _marks(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        least = FITTED * (self._first(rows) or 0.0)
        fitted = np.abs(rows["loss"].astype(np.float64)) <= least
        zero = (rows["global_norm"] == 0) & ~fitted
        return marks(zero, passes=rows["finite"] == 0)


class FlatLoss:
    """`flat_steps`: over so many steps the loss did not change by one bit."""

    def __init__(self, limit: int | None):
        self._loss: float | None = None
        self._streak = Streak(limit)

    def check(self, window: Window, causes: Causes) -> Reason | None:
        losses = window.rows["loss"]
        before = np.concatenate([[np.nan if self._loss is None else self._loss], losses])[:-1]
        reached = self._streak.follow(window.first, np.where(losses == before, COUNTS, ENDS))
        self._loss = float(losses[-1])
        if reached is None:
            return None
        loss = losses[reached.step - window.first]
        return Reason(
            "flat_steps",
            reached.step,
            f"the loss stayed at exactly {loss:.6g} for {reached.count} steps: the gradients may "
            "be all zero, from underflow (mpt probe shows it; try loss_scale.mode=dynamic) or "
            "from dead units (try another seed, or a lower optimizer.learning_rate)",
        )

    def sound_after(self, rows: Mapping[str, np.ndarray]) -> bool:
        return True

    def state(self) -> dict[str, Any]:
        return {"loss": self._loss, "streak": self._streak.state()}

    def restore(self, state: Any) -> None:
        kept = Fields(state, "loss", "streak")
        loss = None if kept.is_none("loss") else kept.number("loss")
        self._streak.restore(kept.part("streak"))
        self._loss = loss
