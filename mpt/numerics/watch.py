"""The host's side of a run's diagnoses: when a step is replayed, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mpt.numerics.capture import Capture, Captured
from mpt.numerics.diagnosis import Diagnosis, diagnose
from mpt.numerics.remedies import Overrides
from mpt.numerics.replay import replaying
from mpt.state_fields import Fields
from mpt.stopping import Cause
from mpt.telemetry.window import Window

MOST_TOLD = 3  # different diagnoses a run
FREE_REPLAYS = 3  # after these, only one each time the run has doubled its length


class Watch:
    """Diagnoses what was captured when a window is drained.

    Each different diagnosis is told once, and at most three in a run; what is different lies in
    another layer or another direction.

    Args:
        capture: what the training steps write to.
        model: as it was trained; its state is left as it is.
        overrides: the user's precision.overrides.
        tell: given each diagnosis to be told.
    """

    def __init__(
        self,
        capture: Capture,
        model: keras.Model,
        overrides: Overrides,
        tell: Callable[[Diagnosis], None],
    ):
        self._capture = capture
        self._model = model
        self._overrides = overrides
        self._tell = tell
        self._told: set[tuple[str | None, str | None]] = set()
        self._replays = 0
        self._rearm_at: int | None = None

    def state(self) -> dict[str, Any]:
        """What was told so far, when to look again, and what is yet to be looked at."""
        return {
            "captured": self._capture.state(),
            "told": [list(told) for told in sorted(self._told, key=str)],
            "replays": self._replays,
            "rearm_at": self._rearm_at,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was told before.

        Raises:
            ValueError: it is no such state.
        """
        kept = Fields(state, "captured", "told", "replays", "rearm_at")
        self._told = {_told(each) for each in kept.items("told")}
        self._replays = kept.whole("replays")
        self._rearm_at = None if kept.is_none("rearm_at") else kept.whole("rearm_at")
        self._capture.restore(state["captured"])

    def check(self, window: Window) -> Cause | None:
        """What broke the step that was captured in this window; None: nothing was.

        A model that cannot be run layer by layer does not end the run: that is told then.
        """
        if self._rearm_at is not None:
            if window.step >= self._rearm_at:
                self._rearm_at = None
                self._capture.rearm()
            return None
        captured = self._capture.read() if window.rows["captured"].any() else None
        if captured is None:  # or it could not be kept where the run was interrupted
            return None
        found = self._diagnose(captured)
        if (found.direction, found.path) not in self._told and len(self._told) < MOST_TOLD:
            self._told.add((found.direction, found.path))
            self._tell(found)
        self._replays += 1
        if self._replays < FREE_REPLAYS:
            self._capture.rearm()
        else:
            self._rearm_at = 2 * window.step
        return Cause(found.step, f"{found.headline}; {found.remedy}")

    def _diagnose(self, captured: Captured) -> Diagnosis:
        try:
            with replaying(self._model, captured) as replay:
                return diagnose(replay, self._overrides)
        except Exception as error:  # whatever a user's model raises when it runs eagerly
            text = str(error).splitlines() or [""]
            return Diagnosis(
                step=captured.step,
                headline="it cannot be replayed layer by layer",
                facts=(("error", f"{type(error).__name__}: {text[0]}"),),
                remedy="see mpt probe for the numbers of a single batch",
                loss_scale=captured.scale,
            )


def _told(each: Any) -> tuple[str | None, str | None]:
    """A direction and a path of a kept state."""
    direction, path = each
    if not all(part is None or isinstance(part, str) for part in (direction, path)):
        raise ValueError("what was told has a direction and a path")
    return direction, path
