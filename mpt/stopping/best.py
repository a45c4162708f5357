"""The best evaluation so far, and when to wait no longer for a better one."""

import math
from dataclasses import dataclass
from typing import Any

from mpt.state_fields import Fields
from mpt.stopping.reason import Reason


@dataclass
class Best:
    """The best value of the monitored tag, and how long nothing better came.

    Attributes:
        tag: the monitored tag.
        mode: "min" or "max".
        min_delta: least change that counts as an improvement.
        patience: evaluations without improvement that end the run; None never ends it.
    """

    tag: str
    mode: str
    min_delta: float = 0.0
    patience: int | None = None
    value: float | None = None
    step: int | None = None
    _waited: int = 0

    def update(self, step: int, value: float | None) -> Reason | None:
        """Count one evaluation; the reason to stop early, or None."""
        if value is not None and not math.isnan(value) and self._improves(value):
            self.value, self.step, self._waited = value, step, 0
            return None
        self._waited += 1
        if self.patience is None or self._waited < self.patience:
            return None
        best = "was never a number" if self.value is None else f"stayed at {self.value:.4g}"
        return Reason("early_stopping", step, f"{self.tag} {best} for {self._waited} evaluations")

    def state(self) -> dict[str, Any]:
        """What `restore` takes: plain values."""
        value = None if self.value is None else float(self.value)
        return {
            "tag": self.tag,
            "mode": self.mode,
            "value": value,
            "step": self.step,
            "waited": self._waited,
        }

    def restore(self, state: Any) -> None:
        """Go on from where `state` was taken.

        Raises:
            ValueError: it is no such state, or that of another tag.
        """
        kept = Fields(state, "tag", "mode", "value", "step", "waited")
        tag, mode = kept.text("tag"), kept.text("mode")
        if (tag, mode) != (self.tag, self.mode):
            raise ValueError(f"the best value is that of {tag:.99} ({mode:.9}), not {self.tag}")
        waited = kept.whole("waited")
        if kept.is_none("value") and kept.is_none("step"):
            self.value, self.step, self._waited = None, None, waited
            return
        value, step = kept.number("value"), kept.whole("step")
        if math.isnan(value):
            raise ValueError("the best value is not a number")
        self.value, self.step, self._waited = value, step, waited

    def _improves(self, value: float) -> bool:
        if self.value is None:
            return True
        gain = value - self.value if self.mode == "max" else self.value - value
        return gain > self.min_delta
