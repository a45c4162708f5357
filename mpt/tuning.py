"""Choices made by a short measurement: steps a call, and XLA.

Steps a call are compared on the run's own steps: grouping changes no result, so nothing is wasted.
What was measured before, on the same machine and step, is not measured again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from mpt.state_fields import Fields

BLOCK = 16  # steps timed at a time; also the larger of the two group sizes compared
ROUNDS = 3
SHORTEST_RUN = 300  # steps; a shorter run ends before a measurement could pay
SLOW_STEP = 0.05  # s; a call costs well under 1% of a slower step
MOST_SHARE = 0.03  # of the expected run, that trying XLA may take
TIMED = 0.5  # s of steps, timed at a time


@dataclass
class StepsPerExecution:
    """Steps to run a device call: as asked, or the faster of 1 and `BLOCK`.

    Attributes:
        value: what to use now.
        reason: how it was chosen.
        settled_at: the last step spent on measuring, 0 where nothing is measured.
        measured: whether this process has made the choice, by measuring.
    """

    value: int
    reason: str
    settled_at: int = 0
    measured: bool = False
    _times: dict[int, list[float]] | None = None
    _block: tuple[int, float] = (0, 0.0)
    _first: bool = True

    @classmethod
    def choose(
        cls,
        asked: int | str,
        total_steps: int,
        deterministic: bool,
        workers: int = 1,
        known: Mapping[str, Any] | None = None,
    ) -> "StepsPerExecution":
        """From the configuration: a number, or "auto".

        Args:
            known: the `state` that an earlier run of this step came to; anything.
        """
        if asked != "auto":
            return cls(int(asked), "as configured")
        if deterministic:
            return cls(1, "device.deterministic leaves nothing to a measurement")
        if workers > 1:
            return cls(1, "not measured: all workers must take the same")
        if (before := _before(known)) is not None:
            return cls(*before)
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
        self.measured = not self.measuring

    def _settle(self, value: int, reason: str) -> None:
        self.value, self.reason, self._times = value, reason, None


def _before(known: Mapping[str, Any] | None) -> tuple[int, str] | None:
    """The number and reason that an earlier run measured; None: no whole choice is known."""
    try:
        kept = Fields(known, "value", "reason")
        return kept.whole("value", least=1), _again(kept.text("reason"))
    except ValueError:
        return None


def _again(reason: str) -> str:
    return f"in an earlier run: {reason}"


@dataclass(frozen=True)
class JitTimes:
    """What trying XLA found.

    Attributes:
        without, with_xla: s a step.
        compiling: s that XLA took to compile it.
    """

    without: float
    with_xla: float
    compiling: float

    @classmethod
    def kept(cls, state: Any) -> "JitTimes | None":
        """Out of what `asdict` made, read back; None: it is something else."""
        try:
            kept = Fields(state, *cls.__dataclass_fields__)
            return cls(*(kept.seconds(name) for name in cls.__dataclass_fields__))
        except ValueError:
            return None

    def choice(self, seconds: float) -> "JitChoice":
        """XLA where it is faster, now that it is compiled; `seconds` is what trying it took."""
        return JitChoice(self.with_xla < self.without, self._told, seconds, self)

    def choice_for(self, total_steps: int) -> "JitChoice":
        """XLA where `total_steps` steps gain what compiling costs."""
        if self.with_xla >= self.without:
            return JitChoice(False, _again(self._told))
        enabled = total_steps * (self.without - self.with_xla) > self.compiling
        pays = f"compiling takes {self.compiling:.0f} s, which {total_steps} steps "
        pays += "repay" if enabled else "do not repay"
        return JitChoice(enabled, f"{_again(self._told)}; {pays}")

    @property
    def _told(self) -> str:
        times = f"{1e3 * self.with_xla:.3g} ms a step with XLA, {1e3 * self.without:.3g} ms without"
        return f"measured {times}"


@dataclass(frozen=True)
class JitChoice:
    """Whether the step is compiled by XLA, and why.

    Attributes:
        seconds: spent on measuring.
        times: what was measured, by this process.
    """

    enabled: bool
    reason: str
    seconds: float = 0.0
    times: JitTimes | None = None


Timed = Callable[[int], float]  # runs some steps, waits for the device, gives their time in s


def choose_jit(
    asked: bool | str,
    *,
    total_steps: int,
    replicas: int,
    deterministic: bool,
    known: JitTimes | None = None,
) -> JitChoice | None:
    """The choice where no measurement is needed, else None.

    Args:
        known: what an earlier run of this step has measured.
    """
    if asked != "auto":
        return JitChoice(bool(asked), "as configured")
    if replicas > 1:
        return JitChoice(False, "XLA does not run under tf.distribute's mirrored variables")
    if deterministic:
        return JitChoice(False, "device.deterministic leaves nothing to a measurement")
    if known is not None:
        return known.choice_for(total_steps)
    if total_steps < SHORTEST_RUN:
        return JitChoice(False, f"not measured: the run has fewer than {SHORTEST_RUN} steps")
    return None


def measure_jit(
    plain: Timed, compiled: Callable[[], Timed], *, total_steps: int, compiling: float
) -> JitChoice:
    """Time the step with and without XLA, in turn, where that takes little of the run.

    Args:
        plain: the step without XLA, traced.
        compiled: makes the step with XLA; called only where the run is long enough.
        total_steps: steps of the run.
        compiling: expected time to trace and compile the step for XLA, s.
    """
    plain(1)  # begins slowly, and the run needs it anyway
    start = time.perf_counter()
    step = plain(2) / 2
    steps = max(1, min(50, int(TIMED / step)))
    run, trying = step * total_steps, compiling + 2 * ROUNDS * steps * step
    if trying > MOST_SHARE * run:
        return JitChoice(
            False,
            f"not measured: the run takes about {run:.0f} s, and trying XLA, in about "
            f"{trying:.0f} s, would be over {100 * MOST_SHARE:.0f}% of it",
            time.perf_counter() - start,
        )
    began = time.perf_counter()
    candidate = compiled()
    try:
        candidate(1)
    except Exception as error:  # XLA refuses with errors of many kinds; the run goes on without
        first = str(error).strip().partition("\n")[0][:200]
        return JitChoice(False, f"XLA cannot run the step: {first}", time.perf_counter() - start)
    took = time.perf_counter() - began
    times: dict[bool, list[float]] = {False: [], True: []}
    while len(times[True]) < ROUNDS:
        times[False].append(plain(steps) / steps)
        times[True].append(candidate(steps) / steps)
        if time.perf_counter() - start > MOST_SHARE * run:  # compiling took longer than expected
            break
    found = JitTimes(median(times[False]), median(times[True]), took)
    return found.choice(time.perf_counter() - start)
