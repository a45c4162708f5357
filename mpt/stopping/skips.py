"""Rules on steps that are not finite: skipped ones, and those applied with such a loss."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpt.state_fields import Fields
from mpt.stopping.reason import Causes, Reason
from mpt.stopping.streak import ENDS, Streak, marks
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.window import Window

Rows = Mapping[str, np.ndarray]


class SkipsInARow:
    """`max_consecutive_skips`: so many steps in a row were skipped for non-finite gradients."""

    def __init__(self, limit: int):
        self._limit = limit
        self._skips = 0

    def check(self, window: Window, causes: Causes) -> Reason | None:
        skips = window.rows["consecutive_skips"]
        self._skips = int(skips[-1])
        reached = skips >= self._limit
        if not reached.any():
            return None
        at = int(reached.argmax())
        step, count = window.first + at, int(skips[at])
        advice = causes.advice(step - count + 1, step) or _against(window.rows["loss"][at])
        return Reason(
            "max_consecutive_skips",
            step,
            f"{count} steps in a row were skipped for non-finite gradients; {advice}",
        )

    def sound_after(self, rows: Rows) -> bool:
        skips = rows["consecutive_skips"]
        return not (skips[-1] if len(skips) else self._skips)

    def state(self) -> dict[str, Any]:
        return {"skips": self._skips}

    def restore(self, state: Any) -> None:
        self._skips = Fields(state, "skips").whole("skips")


class ScaleAtFloor:
    """`scale_at_floor`: so many steps were skipped while the scale could shrink no further.

    They need not follow one another: the count begins anew only once the scale has risen.

    Args:
        limit: the count.
        floor: `loss_scale.min_scale`; None where the scale is not dynamic.
        initial: scale of the first step.
    """

    def __init__(self, limit: int, floor: float | None, initial: float):
        # Rounded as the device has them, or 0.1 would never be reached.
        self._floor = None if floor is None else float(np.float32(floor))
        self._scale = float(np.float32(initial))
        self._streak = Streak(limit)

    def check(self, window: Window, causes: Causes) -> Reason | None:
        reached = self._streak.follow(window.first, self._marks(window.rows))
        self._scale = float(window.rows["scale"][-1])
        if reached is None:
            return None
        step, since = reached.step, reached.since
        advice = causes.advice(since, step) or _against(window.rows["loss"][step - window.first])
        return Reason(
            "scale_at_floor",
            step,
            f"{reached.count} steps since step {since} were skipped for non-finite gradients while "
            f"the loss scale stood at its floor, loss_scale.min_scale={self._floor:g}; {advice}",
        )

    def sound_after(self, rows: Rows) -> bool:
        return not self._streak.runs_after(self._marks(rows))

    def state(self) -> dict[str, Any]:
        return {"scale": self._scale, "streak": self._streak.state()}

    def restore(self, state: Any) -> None:
        kept = Fields(state, "scale", "streak")
        scale = kept.number("scale")
        if not scale > 0:
            raise ValueError(f"a loss scale of {scale}")
        self._streak.restore(kept.part("streak"))
        self._scale = scale

    def _marks(self, rows: Rows) -> np.ndarray:
        if self._floor is None:
            return np.full(len(rows["scale"]), ENDS)
        after = rows["scale"]
        before = np.concatenate([[self._scale], after])[:-1]
        stays = after <= self._floor
        counts = stays & (before <= self._floor) & (rows["finite"] == 0)
        return marks(counts, passes=stays & ~counts)


class NonfiniteLoss:
    """`nonfinite_loss`: so many steps in a row were applied although their loss is not finite.

    Skipped steps between them neither count nor end the row.
    """

    def __init__(self, limit: int):
        self._streak = Streak(limit)

    def check(self, window: Window, causes: Causes) -> Reason | None:
        reached = self._streak.follow(window.first, self._marks(window.rows))
        if reached is None:
            return None
        step, since = reached.step, reached.since
        advice = causes.advice(since, step) or (
            "only the loss is not, so look for a logarithm or a quotient of 0 in the loss and "
            "behind the last weights, look at the data, or keep that layer in float32 "
            "(precision.overrides)"
        )
        return Reason(
            "nonfinite_loss",
            step,
            f"{reached.count} steps in a row, since step {since}, had a loss that is not finite, "
            f"and were applied because their gradients are; {advice}",
        )

    def sound_after(self, rows: Rows) -> bool:
        return not self._streak.runs_after(self._marks(rows))

    def state(self) -> dict[str, Any]:
        return self._streak.state()

    def restore(self, state: Any) -> None:
        self._streak.restore(state)

    def _marks(self, rows: Rows) -> np.ndarray:
        return marks(~np.isfinite(rows["loss"]), passes=rows["finite"] == 0)


def all_skipped(
    steps: int, scales: LossScaleHistory, floor: float | None, causes: Causes
) -> Reason | None:
    """`all_skipped`: not one of the run's steps was applied, though too few for the other rules.

    Args:
        steps: of the whole run.
        scales: the loss scale's path over them.
        floor: `loss_scale.min_scale`; None where the scale is not dynamic.
    """
    if not steps or scales.skipped_steps < steps:
        return None
    general = "look at the data, the loss and the learning rate, or try precision.policy=float32"
    if floor is not None and scales.final > float(np.float32(floor)):
        general += (
            f"; or the loss scale, now {scales.final:g}, is still on its way down: train more "
            "steps, or start with a lower loss_scale.initial_scale"
        )
    advice = causes.advice(1, steps) or general
    which = "the only step was" if steps == 1 else f"all {steps} steps were"
    return Reason(
        "all_skipped",
        steps,
        f"{which} skipped for non-finite gradients, so nothing was trained; {advice}",
    )


def _against(loss: float) -> str:
    """What to try against non-finite gradients, by the loss of such a step."""
    if math.isfinite(loss):
        return (
            "the gradients overflow although the loss is finite: try a lower loss_scale.min_scale, "
            "or precision.policy=mixed_bfloat16"
        )
    return (
        "the loss itself is not finite, so no loss scale helps: look at the data and the "
        "learning rate, or keep the layer that overflows in float32 (precision.overrides)"
    )
