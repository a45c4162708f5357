"""What the host learns from one drain of the device's ring: the material of every metric."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Window:
    """The steps between two drains.

    Attributes:
        step: number of the last step, counted from 1.
        rows: measurement -> float32 array of shape (steps,), in the order of the steps.
        seconds: wall time of the steps, s, without evaluation or saving.
        examples: examples trained on.
        metrics: Keras's training metrics, means since the epoch's start.
        learning_rate: of the last step.
        complete: the window ends on a step whose heavier gradient statistics were taken.
    """

    step: int
    rows: dict[str, np.ndarray]
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
        """The `train/*` tags: the steps' mean loss, and Keras's metrics since the epoch began."""
        values = {f"train/{name}": value for name, value in self.metrics.items()}
        return {**values, "train/loss": self.loss}
