"""Choices made by a short measurement: steps a call, and XLA.

Steps a call are compared on the run's own steps: grouping changes no result, so nothing is wasted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from mpt.state_fields import Fields

BLOCK = 16  # steps timed at a time; also the larger of the two group sizes compared
ROUNDS = 3
SHORTEST_RUN = 300  # steps; a shorter run ends before a measurement could pay
SLOW_STEP = 0.05  # s; a call costs well under 1% of a slower step


@dataclass
class StepsPerExecution:
    """Steps to run a device call: as asked, or the faster of 1 and `BLOCK`.

    Attributes:
        value: what to use now.
        reason: how it was chosen.
        settled_at: the last step spent on measuring, 0 where nothing is measured.
    """

    value: int
    reason: str
    settled_at: int = 0
    _times: dict[int, list[float]] | None = None
    _block: tuple[int, float] = (0, 0.0)
    _first: bool = True

    @classmethod
    def choose(
        cls, asked: int | str, total_steps: int, deterministic: bool, workers: int = 1
    ) -> "StepsPerExecution":
        """From the configuration: a number, or "auto"."""
        if asked != "auto":
            return cls(int(asked), "as configured")
        if deterministic:
            return cls(1, "device.deterministic leaves nothing to a measurement")
        if workers > 1:
            return cls(1, "not measured: all workers must take the same")
        if total_steps < SHORTEST_RUN:
            return cls(1, f"not measured: the run has fewer than {SHORTEST_RUN} steps")
        return cls(1, "measuring", _times={})

    def state(self) -> dict[str, Any]:
        """The choice, where it has been made."""
        return {"value": None if self.measuring else self.value, "reason": self.reason}

    def restore(self, state: dict[str, Any]) -> None:
        """Keep to a choice made before; where there was none, it is still to be made.

        Raises:
            ValueError: it is no such state.
        """
        kept = Fields(state, "value", "reason")
        if not kept.is_none("value"):
            self._settle(kept.whole("value", least=1), kept.text("reason"))

    @property
    def measuring(self) -> bool:
        return self._times is not None

    def add(self, step: int, steps: int, seconds: float) -> None:
        """Learn from one finished call that ended at `step`; `seconds` is its synchronized time."""
        if self._times is None:
            return
        if self._first:  # the first call traces
            self._first = False
            return
        done, spent = self._block[0] + steps, self._block[1] + seconds
        self._block = (done, spent)
        if done < BLOCK and spent / done < SLOW_STEP:
            return
        self._block = (0, 0.0)
        self._times.setdefault(self.value, []).append(spent / done)
        self.settled_at = step
        if spent / done >= SLOW_STEP:
            self._settle(
                1, f"a step takes {1e3 * spent / done:.0f} ms: a call costs nothing beside it"
            )
        elif len(self._times.get(BLOCK, ())) == ROUNDS:
            one, many = (median(self._times[k]) for k in (1, BLOCK))
            text = f"measured {1e3 * one:.3g} ms a step at 1, {1e3 * many:.3g} ms at {BLOCK}"
            self._settle(BLOCK if many < one else 1, text)
        else:
            self.value = BLOCK if self.value == 1 else 1

    def _settle(self, value: int, reason: str) -> None:
        self.value, self.reason, self._times = value, reason, None


@dataclass(frozen=True)
class JitChoice:
    """Whether the step is compiled by XLA, and why."""

    enabled: bool
    reason: str
    seconds: float = 0.0


Timed = Callable[[int], float]  # runs some steps, waits for the device, gives their time in s


def choose_jit(
    asked: bool | str, *, total_steps: int, replicas: int, deterministic: bool
) -> JitChoice | None:
    """The choice where no measurement is needed, else None."""
    if asked != "auto":
        return JitChoice(bool(asked), "as configured")
    if replicas > 1:
        return JitChoice(False, "XLA does not run under tf.distribute's mirrored variables")
    if deterministic:
        return JitChoice(False, "device.deterministic leaves nothing to a measurement")
    if total_steps < SHORTEST_RUN:
        return JitChoice(False, f"not measured: the run has fewer than {SHORTEST_RUN} steps")
    return None


def measure_jit(
    plain: Timed,
    compiled: Callable[[], Timed],
    *,
    total_steps: int,
    worthwhile_seconds: float,
) -> JitChoice:
    """Time the step with and without XLA, in turn, where the run is long enough to repay it.

    Args:
        plain: the step without XLA.
        compiled: makes the step with XLA; called only where the run is long enough.
        total_steps: steps of the run.
        worthwhile_seconds: shortest expected run, s, for which compiling is tried.
    """
    plain(1)  # traces, which the run needs anyway
    start = time.perf_counter()
    step = plain(2) / 2
    if step * total_steps < worthwhile_seconds:
        return JitChoice(
            False,
            f"not measured: the run takes about {step * total_steps:.0f} s, "
            "too short to repay compiling",
            time.perf_counter() - start,
        )
    candidate = compiled()
    try:
        candidate(1)
    except Exception as error:  # XLA refuses with errors of many kinds; the run goes on without
        first = str(error).strip().partition("\n")[0][:200]
        return JitChoice(False, f"XLA cannot run the step: {first}", time.perf_counter() - start)
    steps = max(2, min(50, int(1.0 / step)))
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        times[False].append(plain(steps) / steps)
        times[True].append(candidate(steps) / steps)
    without, with_xla = median(times[False]), median(times[True])
    text = f"measured {1e3 * with_xla:.3g} ms a step with XLA, {1e3 * without:.3g} ms without"
    return JitChoice(with_xla < without, text, time.perf_counter() - start)
