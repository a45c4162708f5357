"""Throughput.

Tags:
    throughput/examples_per_second: examples trained on a second, over the log interval.
    throughput/steps_per_second: steps a second.
    throughput/step_time_ms: mean time of a step, ms.
    throughput/data_wait_fraction: share of the time in which a step waited for its batch, 0 to 1;
        absent under device.deterministic.

Evaluation and saving are not counted; the host's telemetry and callbacks are, but in the report's
`step_time_ms`, which is that of steps alone. The report's figures leave the warm-up out.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpt import report
from mpt.state_fields import Fields
from mpt.telemetry.window import Window

WAIT = "throughput/data_wait_fraction"


def tags(window: Window) -> dict[str, float]:
    """This module's tags for one window."""
    if not window.seconds:
        return {}
    values = {
        "throughput/examples_per_second": window.examples / window.seconds,
        "throughput/steps_per_second": window.steps / window.seconds,
        "throughput/step_time_ms": 1e3 * window.seconds / window.steps,
    }
    if window.data_wait is not None:
        values[WAIT] = _wait_fraction(window.data_wait, window.seconds)
    return values


@dataclass
class Throughput:
    """Times of the steps after the warm-up, for the report.

    Exact quantiles need every call's time. Kept are eight bytes a call: a run has millions of them,
    and each checkpoint holds them all.
    """

    warmup_steps: int
    batch_size: int
    _steps: "array[int]" = field(default_factory=lambda: array("i"))
    _seconds: "array[float]" = field(default_factory=lambda: array("f"))
    _between: float = 0.0
    _data_wait: float = 0.0
    _waited_seconds: float = 0.0
    _warm_at: int = 0

    def state(self) -> dict[str, Any]:
        """What was measured so far."""
        return {
            "warmup_steps": self.warmup_steps,
            "steps": np.array(self._steps, np.int32),  # copies: an array that is looked into
            "seconds": np.array(self._seconds, np.float32),  # cannot grow
            "between": self._between,
            "data_wait": self._data_wait,
            "waited_seconds": self._waited_seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was measured before.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        names = ("warmup_steps", "steps", "seconds", "between", "data_wait", "waited_seconds")
        kept = Fields(state, *names)
        steps, seconds = kept.array("steps", "int32"), kept.array("seconds", "float32")
        if len(steps) != len(seconds):
            raise ValueError(f"{len(seconds)} times of {len(steps)} calls")
        between, waits = kept.seconds("between"), [kept.seconds(name) for name in names[-2:]]
        self.warmup_steps = kept.whole("warmup_steps")
        self._steps, self._seconds = array("i", steps.tobytes()), array("f", seconds.tobytes())
        self._between = between
        self._data_wait, self._waited_seconds = waits

    def warm_up_again(self, step: int) -> None:
        """Leave out the first steps after `step`, too: they are a new process's."""
        self._warm_at = step + self.warmup_steps

    def _is_warm(self, first_step: int) -> bool:
        return first_step >= max(self.warmup_steps, self._warm_at)

    def add(self, last_step: int, steps: int, seconds: float) -> None:
        """Count `steps` steps ending at `last_step`, unless any belongs to the warm-up."""
        if self._is_warm(last_step - steps):
            self._steps.append(steps)
            self._seconds.append(seconds)

    def add_between(self, last_step: int, seconds: float) -> None:
        """Count what the host did after `last_step`: it slows training, though no step."""
        if self._steps and self._is_warm(last_step - 1):
            self._between += seconds

    def add_wait(self, window: Window) -> None:
        """Count the window's waiting for data, unless any of it belongs to the warm-up."""
        if self._is_warm(window.step - window.steps) and window.data_wait is not None:
            self._data_wait += max(0.0, window.data_wait)  # by a clock that may be put back
            self._waited_seconds += window.seconds

    def extend_warmup(self, step: int) -> None:
        """Leave out all steps up to `step`: they were spent on measuring."""
        self.warmup_steps = max(self.warmup_steps, step)
        del self._steps[:], self._seconds[:]
        self._between = 0.0

    @property
    def measured_steps(self) -> int:
        return sum(self._steps)

    def summary(self) -> report.Throughput:
        """The report's `throughput`; what no step after the warm-up measured is None."""
        measured = self.measured_steps
        summary = report.Throughput(warmup_steps=self.warmup_steps, measured_steps=measured)
        if measured:
            steps = np.array(self._steps)
            seconds = np.array(self._seconds, np.float64)
            times = np.repeat(1e3 * seconds / steps, steps)
            summary.examples_per_second = (
                measured * self.batch_size / (float(seconds.sum()) + self._between)
            )
            summary.step_time_ms = report.StepTime(
                median=float(np.median(times)),
                p10=float(np.percentile(times, 10)),
                p90=float(np.percentile(times, 90)),
            )
        if self._waited_seconds:
            summary.data_wait_fraction = _wait_fraction(self._data_wait, self._waited_seconds)
        return summary


def _wait_fraction(waited: float, seconds: float) -> float:
    return min(1.0, waited / seconds)
