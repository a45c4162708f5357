"""Loss scale.

Tags:
    loss_scale/scale: factor on the loss, as it stands after the interval's last step.
    loss_scale/skipped_steps: steps skipped since the start, for a non-finite gradient.
    loss_scale/skip_rate: share of the interval's steps that were skipped, 0 to 1.
    loss_scale/consecutive_skips: steps skipped in a row, up to the interval's last.
"""

from dataclasses import dataclass, field

import numpy as np

from mpt import report
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
    lowest: float = float("inf")
    highest: float = float("-inf")
    skipped_steps: int = 0
    max_consecutive_skips: int = 0
    last_overflow_step: int | None = None

    def add(self, window: Window) -> None:
        """Follow the scale through a window's steps."""
        scales = window.rows["scale"]
        first = window.step - window.steps + 1
        previous = self.history[-1][1] if self.history else None
        for offset, scale in enumerate(scales.tolist()):
            if scale != previous:
                self.history.append([first + offset, scale])
                previous = scale
        self.lowest = min(self.lowest, float(scales.min()))
        self.highest = max(self.highest, float(scales.max()))
        skipped = np.flatnonzero(window.rows["finite"] == 0)
        self.skipped_steps += len(skipped)
        if len(skipped):
            self.last_overflow_step = int(first + skipped[-1])
        self.max_consecutive_skips = max(
            self.max_consecutive_skips, int(window.rows["consecutive_skips"].max())
        )

    def summary(self) -> report.LossScale:
        """The report's `loss_scale`; `history` is [step, scale] at each change."""
        seen = bool(self.history)
        return report.LossScale(
            mode=self.mode,
            initial=self.initial,
            final=self.history[-1][1] if seen else self.initial,
            min=self.lowest if seen else None,
            max=self.highest if seen else None,
            skipped_steps=self.skipped_steps,
            max_consecutive_skips=self.max_consecutive_skips,
            last_overflow_step=self.last_overflow_step,
            history=self.history,
        )
