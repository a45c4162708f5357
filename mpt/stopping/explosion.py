"""Rules on a loss that grows out of all measure."""

import math
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

import numpy as np

from mpt.state_fields import Fields, finite, number
from mpt.stopping.reason import Causes, Reason
from mpt.telemetry.window import Window

LEAST_STEPS = 10
"""Applied steps below which an interval is joined to the next: one bad batch is no explosion."""

LEAST_LOSS = 1e-3
"""A first loss below this counts as this: near 0 a ratio says nothing."""

ADVICE = (
    "try a lower optimizer.learning_rate, warm-up steps (optimizer.schedule.warmup_steps) "
    "or optimizer.global_clipnorm"
)


class HighLoss:
    """`max_loss`: the mean loss of a log interval is above a bound of the user's."""

    def __init__(self, limit: float | None):
        self._limit = limit
        self._loss: float | None = None

    def check(self, window: Window, causes: Causes) -> Reason | None:
        self._loss = float(window.rows["loss"][-1])
        if self._limit is None or not window.loss > self._limit:
            return None
        known = causes.advice(window.first, window.step) if math.isinf(window.loss) else None
        return Reason(
            "max_loss",
            window.step,
            f"the mean loss of the last {window.steps} steps is {window.loss:.4g}, above "
            f"trainer.stop.max_loss={self._limit:g}: {known or ADVICE}",
        )

    def sound_after(self, rows: Mapping[str, np.ndarray]) -> bool:
        """Whether the last loss is finite, and not above the bound."""
        loss = float(rows["loss"][-1]) if len(rows["loss"]) else self._loss
        if loss is None:
            return True
        return math.isfinite(loss) and (self._limit is None or loss <= self._limit)

    def state(self) -> dict[str, Any]:
        return {"loss": self._loss}

    def restore(self, state: Any) -> None:
        kept = Fields(state, "loss")
        self._loss = None if kept.is_none("loss") else kept.number("loss")


class LossRatio:
    """`max_loss_ratio`: the loss is so many times what it was at the start.

    The mean of an interval is held against that of the run's first one; and its median against the
    loss of the first step, for a loss that explodes within the first interval and stays there. An
    interval is what a window shows, joined to the next until it holds ten applied steps. Losses
    that are not finite are left to other rules. A loss that was ever negative has no ratio.
    """

    def __init__(self, ratio: float | None):
        self._ratio = ratio
        self._signed = False
        self._first: float | None = None  # of the first interval: its first loss, and its mean
        self._mean: float | None = None
        self._pending: list[float] = []
        self._last: float | None = None

    def check(self, window: Window, causes: Causes) -> Reason | None:
        rows = window.rows
        self._last = float(rows["loss"][-1])
        losses = rows["loss"][(rows["finite"] > 0) & np.isfinite(rows["loss"])].tolist()
        self._signed = self._signed or any(loss < 0 for loss in losses)
        self._pending += losses
        if self._signed or len(self._pending) < LEAST_STEPS:
            self._pending = [] if self._signed else self._pending
            return None
        interval, self._pending = self._pending, []
        if self._mean is not None:
            return self._verdict(interval, window.step)
        if fmean(interval) > 0:
            self._first, self._mean = interval[0], fmean(interval)
        return None

    def _verdict(self, interval: list[float], step: int) -> Reason | None:
        if self._ratio is None or self._mean is None or self._first is None:
            return None
        mean, middle = fmean(interval), median(interval)
        if mean > self._bound(self._mean):
            found = f"mean loss of the last {len(interval)} applied steps is {mean:.4g}"
            start = f"that of the run's first interval, {self._mean:.4g}"
        elif middle > self._bound_of_first():
            found = f"median loss of the last {len(interval)} applied steps is {middle:.4g}"
            start = f"the loss of the run's first step, {self._first:.4g}"
        else:
            return None
        return Reason(
            "max_loss_ratio",
            step,
            f"the {found}, over trainer.stop.max_loss_ratio={self._ratio:g} times {start}: "
            f"{ADVICE}",
        )

    def sound_after(self, rows: Mapping[str, np.ndarray]) -> bool:
        """Whether the last loss is below both bounds, as far as they are known."""
        loss = float(rows["loss"][-1]) if len(rows["loss"]) else self._last
        if self._signed or self._mean is None or loss is None or math.isnan(loss):
            return True
        return loss <= min(self._bound(self._mean), self._bound_of_first())

    def _bound(self, start: float) -> float:
        return math.inf if self._ratio is None else self._ratio * max(start, LEAST_LOSS)

    def _bound_of_first(self) -> float:
        """Of one step's loss, which may be small by chance: then it bounds nothing."""
        first = self._first
        return math.inf if first is None or first < LEAST_LOSS else self._bound(first)

    def state(self) -> dict[str, Any]:
        return {
            "signed": self._signed,
            "first": self._first,
            "mean": self._mean,
            "pending": list(self._pending),
            "last": self._last,
        }

    def restore(self, state: Any) -> None:
        kept = Fields(state, "signed", "first", "mean", "pending", "last")
        signed = kept.flag("signed")
        last = None if kept.is_none("last") else kept.number("last")
        pending = [
            finite(number(loss, "pending"), "pending", least=0) for loss in kept.items("pending")
        ]
        if len(pending) >= LEAST_STEPS or (signed and pending):
            raise ValueError(f"{len(pending)} losses are pending")
        first = mean = None
        if not (kept.is_none("first") and kept.is_none("mean")):
            first = finite(kept.number("first"), "first", least=0)
            mean = finite(kept.number("mean"), "mean", least=0)
            if mean == 0:
                raise ValueError("the first interval's mean loss is 0")
        self._signed, self._first, self._mean = signed, first, mean
        self._pending, self._last = pending, last
