"""What the members of a team decide together, so that all take the same steps."""

import signal

from mpt.interrupts import Interrupts
from mpt.workers import Team


class Agreement:
    """Whether a run was asked to end, by a signal or by a callback at any member.

    Members that decided for themselves would wait for each other for ever. So a signal counts once
    all know of it, at the next `settle`; for one process alone it counts at once.

    Args:
        interrupts: this process's signals.
    """

    def __init__(self, team: Team, interrupts: Interrupts):
        self._team = team
        self._interrupts = interrupts
        self._agreed = False

    def __bool__(self) -> bool:
        return bool(self._interrupts) if self._team.size == 1 else self._agreed

    @property
    def signal(self) -> str:
        """The name of the first signal; where another member had it, of the usual one."""
        return signal.Signals([*self._interrupts.received, signal.SIGTERM][0]).name

    def settle(self, *flags: bool) -> tuple[bool, ...]:
        """For each of `flags`, whether any member has it set. All must call it alike."""
        interrupted, *others = self._team.any(bool(self._interrupts), *flags)
        self._agreed = self._agreed or interrupted
        return tuple(others)

    def interrupted(self) -> bool:
        """Whether a signal has come to any member by now. All must call it alike."""
        self.settle()
        return bool(self)
