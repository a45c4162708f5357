"""Loss scale.

Tags:
    loss_scale/scale: factor on the loss, as it stands after the interval's last step.
    loss_scale/skipped_steps: steps skipped since the start, for a non-finite gradient.
    loss_scale/skip_rate: share of the interval's steps that were skipped, 0 to 1.
    loss_scale/consecutive_skips: steps skipped in a row, up to the interval's last.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from mpt import report
from mpt.state_fields import Fields, number, whole
from mpt.telemetry.window import Window


def tags(window: Window) -> dict[str, float]:
    """This module's tags for one window."""
    rows = window.rows
    return {
        "loss_scale/scale": float(rows["scale"][-1]),
        "loss_scale/skipped_steps": float(rows["skipped_steps"][-1]),
        "loss_scale/skip_rate": float(1 - rows["finite"].mean()),
        "loss_scale/consecutive_skips": float(rows["consecutive_skips"][-1]),
    }


@dataclass
class LossScaleHistory:
    """The scale's path over a run, for the report."""

    mode: str
    initial: float
    history: list[list[float]] = field(default_factory=list)
    skipped_steps: int = 0
    max_consecutive_skips: int = 0
    last_overflow_step: int | None = None

    def add(self, window: Window) -> None:
        """Follow the scale through a window's steps."""
        previous = self.history[-1][1] if self.history else None
        for offset, scale in enumerate(window.rows["scale"].tolist()):
            if scale != previous:
                self.history.append([window.first + offset, scale])
                previous = scale
        skipped = np.flatnonzero(window.rows["finite"] == 0)
        self.skipped_steps += len(skipped)
        if len(skipped):
            self.last_overflow_step = int(window.first + skipped[-1])
        self.max_consecutive_skips = max(
            self.max_consecutive_skips, int(window.rows["consecutive_skips"].max(initial=0))
        )

    def state(self) -> dict[str, Any]:
        """What `restore` takes: plain values."""
        return {
            "history": [list(change) for change in self.history],
            "skipped_steps": self.skipped_steps,
            "max_consecutive_skips": self.max_consecutive_skips,
            "last_overflow_step": self.last_overflow_step,
        }

    def restore(self, state: Any) -> None:
        """Go on from where `state` was taken.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        names = ("history", "skipped_steps", "max_consecutive_skips", "last_overflow_step")
        kept = Fields(state, *names)
        history = [_change(change) for change in kept.items("history")]
        if any(later[0] <= change[0] for change, later in pairwise(history)):
            raise ValueError("the steps at which the loss scale changed do not rise")
        skipped, longest = kept.whole("skipped_steps"), kept.whole("max_consecutive_skips")
        none = kept.is_none("last_overflow_step")
        last = None if none else kept.whole("last_overflow_step", least=1)
        if longest > skipped or (last is None) != (skipped == 0):
            raise ValueError(f"{skipped} skipped steps, {longest} in a row, the last one {last}")
        self.history, self.skipped_steps = history, skipped
        self.max_consecutive_skips, self.last_overflow_step = longest, last

    @property
    def final(self) -> float:
        """The scale after the last step."""
        return self.history[-1][1] if self.history else self.initial

    def summary(self) -> report.LossScale:
        """The report's `loss_scale`; `history` is [step, scale] at each change."""
        scales = [scale for _, scale in self.history]
        return report.LossScale(
            mode=self.mode,
            initial=self.initial,
            final=self.final,
            min=min(scales, default=None),
            max=max(scales, default=None),
            skipped_steps=self.skipped_steps,
            max_consecutive_skips=self.max_consecutive_skips,
            last_overflow_step=self.last_overflow_step,
            history=self.history,
        )


def _change(change: Any) -> list[float]:
    """One [step, scale] of a kept history."""
    if not isinstance(change, list) or len(change) != 2:
        raise ValueError("a change of the loss scale is a step and a scale")
    step, scale = whole(change[0], "step", least=1), number(change[1], "scale")
    if not 0 < scale < math.inf:
        raise ValueError(f"a loss scale of {scale}")
    return [step, scale]
