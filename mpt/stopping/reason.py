"""Why a run ended, and what a diagnosis found that may explain it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpt.state_fields import Fields

EARLY = ("early_stopping", "callback")


@dataclass(frozen=True)
class Reason:
    """Why a run ended: the rule, the step at which it held, and what to try."""

    rule: str
    step: int
    message: str

    @property
    def is_early(self) -> bool:
        """Whether the run stops early by it; else it has diverged."""
        return self.rule in EARLY

    @classmethod
    def kept(cls, state: Any) -> "Reason":
        """That of a kept state, its fields by name. Raises ValueError where it is none."""
        kept = Fields(state, "rule", "step", "message")
        return cls(kept.text("rule"), kept.whole("step"), kept.text("message"))


@dataclass(frozen=True)
class Cause:
    """What broke a step, and what to try against it, as a diagnosis found it."""

    step: int
    advice: str


@dataclass
class Causes:
    """The causes that were found so far."""

    found: list[Cause] = field(default_factory=list)

    def advice(self, first: int, last: int) -> str | None:
        """Advice from the first cause that was found in the steps from `first` to `last`."""
        for cause in self.found:
            if first <= cause.step <= last:
                return f"step {cause.step}: {cause.advice}"
        return None

    def state(self) -> list[dict[str, Any]]:
        return [{"step": cause.step, "advice": cause.advice} for cause in self.found]

    def restore(self, state: Sequence[Any]) -> None:
        """As it was. Raises ValueError where `state` is none of this class's."""
        kept = [Fields(each, "step", "advice") for each in state]
        self.found = [Cause(one.whole("step", least=1), one.text("advice")) for one in kept]
