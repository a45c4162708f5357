"""What the host learns from one drain of the device's ring: the material of every metric."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rows = dict[str, np.ndarray]
"""Measurement -> float32 (steps,), in the order of the steps."""


@dataclass(frozen=True)
class Window:
    """The steps between two drains.

    Attributes:
        step: number of the last step, counted from 1.
        rows: what was measured of each.
        seconds: wall time of the steps, s, without evaluation or saving.
        examples: examples trained on.
        metrics: Keras's training metrics, means since the epoch's start.
        learning_rate: of the last step.
        complete: the window ends on a step whose heavier gradient statistics were taken.
    """

    step: int
    rows: Rows
    seconds: float
    examples: int
    metrics: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    complete: bool = True

    @property
    def steps(self) -> int:
        return len(self.rows["loss"])

    @property
    def first(self) -> int:
        """Number of the first step."""
        return self.step - self.steps + 1

    @property
    def data_wait(self) -> float | None:
        """Time for which the steps waited for their batches, s; None where it was not measured."""
        waits = self.rows.get("data_wait")
        return None if waits is None else float(waits.sum())

    @property
    def loss(self) -> float:
        """Mean loss of the steps that were applied; NaN where none was."""
        applied = self.rows["loss"][self.rows["finite"] > 0]
        return float(applied.mean(dtype=np.float64)) if applied.size else float("nan")

    @property
    def train_values(self) -> dict[str, float]:
        """The `train/*` tags: the steps' mean loss, and Keras's metrics since the epoch began.

        Before the run's first applied step these metrics have seen nothing, and are left out.
        """
        skipped = self.rows.get("skipped_steps")
        if skipped is not None and skipped[-1] >= self.step:
            return {"train/loss": self.loss}
        values = {f"train/{name}": value for name, value in self.metrics.items()}
        return {**values, "train/loss": self.loss}


class OpenWindow:
    """The steps since the last window was closed.

    Attributes:
        since: number of the last step of that window; 0 where there is none yet.
        seconds: wall time of the steps so far, s.
    """

    def __init__(self, since: int = 0, rows: Rows | None = None, seconds: float = 0.0) -> None:
        self.since, self.seconds = since, seconds
        self._pieces = [rows] if rows else []

    def add(self, rows: Rows) -> None:
        """Take what was measured of further steps."""
        if rows["loss"].size:
            self._pieces.append(rows)

    @property
    def rows(self) -> Rows:
        """What was measured of the steps so far; empty where there are none."""
        if len(self._pieces) > 1:
            columns = self._pieces[0]
            joined = {c: np.concatenate([rows[c] for rows in self._pieces]) for c in columns}
            self._pieces = [joined]
        return self._pieces[0] if self._pieces else {}

    def close(self, step: int, batch_size: int, **measured: Any) -> Window:
        """The window of the steps up to `step`; the next one begins there.

        Args:
            measured: of `Window`, besides.
        """
        examples = (step - self.since) * batch_size
        window = Window(step, self.rows, self.seconds, examples, **measured)
        self.since, self.seconds, self._pieces = step, 0.0, []
        return window
