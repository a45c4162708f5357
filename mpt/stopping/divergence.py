"""All rules on the numerics of training, held against what each window shows."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mpt.state_fields import Fields
from mpt.stopping.explosion import HighLoss, LossRatio
from mpt.stopping.reason import Cause, Causes, Reason
from mpt.stopping.skips import NonfiniteLoss, ScaleAtFloor, SkipsInARow, all_skipped
from mpt.stopping.standstill import FlatLoss, ZeroGradients
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.window import Window


class Rule(Protocol):
    """One rule, and what it has counted."""

    def check(self, window: Window, causes: Causes) -> Reason | None:
        """Count the window's steps; where the rule first held in them, or None."""

    def sound_after(self, rows: Mapping[str, np.ndarray]) -> bool:
        """Whether nothing that it counts is going on after `rows`. Counts nothing."""

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Any) -> None: ...


@dataclass
class DivergenceRules:
    """Rules on the numerics of training; the first that holds stops the run.

    Advice is general unless the cause is known, at a step that the rule looks at.

    Attributes:
        max_consecutive_skips: steps skipped in a row; also steps applied in a row with a loss that
            is not finite, and steps skipped while the scale stood at its floor.
        max_loss: mean loss of a log interval; None: any.
        flat_steps: steps over which the loss did not change by one bit; None: any.
        max_loss_ratio: loss over that of the run's start; None: any.
        zero_gradient_steps: steps in a row whose gradients are all exactly 0; None: any.
        min_scale: floor of the loss scale; None where it is not dynamic.
        initial_scale: loss scale of the first step.
    """

    max_consecutive_skips: int
    max_loss: float | None = None
    flat_steps: int | None = None
    max_loss_ratio: float | None = None
    zero_gradient_steps: int | None = None
    min_scale: float | None = None
    initial_scale: float = math.inf
    _causes: Causes = field(default_factory=Causes)

    def __post_init__(self) -> None:
        most = self.max_consecutive_skips
        # In this order where several hold first at the same step.
        self._rules: dict[str, Rule] = {
            "skips": SkipsInARow(most),
            "floor": ScaleAtFloor(most, self.min_scale, self.initial_scale),
            "nonfinite_loss": NonfiniteLoss(most),
            "max_loss": HighLoss(self.max_loss),
            "loss_ratio": LossRatio(self.max_loss_ratio),
            "zero_gradients": ZeroGradients(self.zero_gradient_steps),
            "flat_loss": FlatLoss(self.flat_steps),
        }

    def check(self, window: Window, cause: Cause | None = None) -> Reason | None:
        """The reason to stop after this window, in which `cause` was found, or None."""
        if cause is not None:
            self._causes.found.append(cause)
        if not window.steps:
            return None
        reasons = [rule.check(window, self._causes) for rule in self._rules.values()]
        return min((r for r in reasons if r), key=lambda reason: reason.step, default=None)

    def at_end(self, steps: int, scales: LossScaleHistory) -> Reason | None:
        """The reason why a run that ends after `steps` has diverged, held by none of the rules.

        Args:
            scales: the loss scale's path over all these steps.
        """
        return all_skipped(steps, scales, self.min_scale, self._causes)

    def healthy(self, rows: Mapping[str, np.ndarray]) -> bool:
        """Whether the state of the run is one to go back to.

        So it is where the last step was applied, with a loss that is finite and below the bounds,
        and where no rule is counting, nor would stop the run when it comes to look at `rows`.

        Args:
            rows: of the steps since the last window that was checked, as a window has them; a
                mapping without rows or columns where there are none. They are not counted.
        """
        some = rows if rows and len(rows["loss"]) else _NO_ROWS
        if not all(rule.sound_after(some) for rule in self._rules.values()):
            return False
        ahead = Window(len(some["loss"]), dict(some), seconds=0.0, examples=0)
        trial = copy.deepcopy(self._rules) if ahead.steps else {}
        return not any(rule.check(ahead, Causes()) for rule in trial.values())

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as it stands after the last window: plain values."""
        counted = {name: rule.state() for name, rule in self._rules.items()}
        return {"causes": self._causes.state(), "rules": counted}

    def restore(self, state: Any) -> None:
        """Go on from where `state` was taken, whatever the limits were then.

        Raises:
            ValueError: it is no such state. Nothing has changed then.
        """
        kept = Fields(state, "causes", "rules")
        causes, rules = Causes(), copy.deepcopy(self._rules)
        causes.restore(kept.items("causes"))
        counted = Fields(kept.part("rules"), *rules)
        for name, rule in rules.items():
            rule.restore(counted.part(name))
        self._causes, self._rules = causes, rules


_NO_ROWS = {
    name: np.zeros(0, np.float32)
    for name in ("loss", "scale", "finite", "consecutive_skips", "global_norm")
}
