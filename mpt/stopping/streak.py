"""Counts steps for which something holds, until a step that ends the count."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpt.state_fields import Fields

COUNTS, PASSES, ENDS = 1, 0, -1
"""What a step does to a streak: it is counted, it changes nothing, or it ends the streak."""


@dataclass(frozen=True)
class Reached:
    """Where a streak reached its limit: the step, and how many were counted since which one."""

    step: int
    count: int
    since: int


@dataclass
class Streak:
    """How many steps were counted, and since when.

    Attributes:
        limit: the count that is worth telling; None: none is.
        count: steps counted.
        since: the first of them; 0 where there is none.
    """

    limit: int | None
    count: int = 0
    since: int = 0

    def follow(self, first: int, marks: np.ndarray) -> Reached | None:
        """Go through the steps from `first` on; where the limit was reached, or None.

        Args:
            marks: COUNTS, PASSES or ENDS for each step, integers of shape (steps,).
        """
        reached = None
        for offset, mark in enumerate(marks.tolist()):
            if mark == ENDS:
                self.count = self.since = 0
            elif mark == COUNTS:
                self.since = self.since or first + offset
                self.count += 1
                if reached is None and self.limit is not None and self.count >= self.limit:
                    reached = Reached(first + offset, self.count, self.since)
        return reached

    def runs_after(self, marks: np.ndarray) -> bool:
        """Whether it would be running after such steps. It stays as it is."""
        further = replace(self)
        further.follow(1, marks)
        return further.count > 0

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "since": self.since}

    def restore(self, state: Any) -> None:
        """As it was. Raises ValueError where `state` is none of this class's."""
        kept = Fields(state, "count", "since")
        count, since = kept.whole("count"), kept.whole("since")
        if (count == 0) != (since == 0):
            raise ValueError(f"{count} steps were counted since step {since}")
        self.count, self.since = count, since


def marks(counts: np.ndarray, passes: np.ndarray) -> np.ndarray:
    """A mark for each step: PASSES where `passes`, else COUNTS where `counts`, else ENDS."""
    return np.where(passes, PASSES, np.where(counts, COUNTS, ENDS))
