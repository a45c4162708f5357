"""Signals that ask a run to save what it has and end, and those that end it at once.

SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 ask (batch systems send one of the latter three ahead of a time
limit): `Interrupts`. A second SIGINT ends the process at once; one SIGINT after another signal does
not, for a parent hands on what a batch system has sent to parent and child alike. Before there is
anything to save each of them ends the process: `Endings`.

A forked child, such as a worker of a user's generator, has none of this: signals do to it what they
did before.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from mpt.errors import INTERRUPTED, ended_by
from mpt.leaving import leave_at_once

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 2.0  # for what is at work to end by KeyboardInterrupt
END = b"\0"  # no signal's number

_entered: list["Signals"] = []
_masks = threading.local()  # of the thread that forks


class Signals:
    """Those of `numbers` that are received within `with`, in the main thread.

    Python's own handlers wait until the interpreter runs again, which may be many steps of a device
    call later. So the system's part writes each signal to a pipe as well, and a thread reads it.

    Attributes:
        received: signal numbers in their order, as the main thread saw them.
    """

    def __init__(self, numbers: Sequence[int]):
        self.received: list[int] = []
        self._numbers = numbers
        self._previous: dict[int, Any] = {}
        self._ended = threading.Event()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """What the main thread does at a signal, after it is noted."""
        raise NotImplementedError

    def _watched(self, seen: list[int]) -> None:
        """What the thread does at the last signal of `seen`, which holds all so far."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._thread = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._thread.start()
        _entered.append(self)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        try:
            for number in self._numbers:
                self._previous[number] = signal.getsignal(number)
                signal.signal(number, self._receive)
        except BaseException:  # what the handler before raised just now
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self not in _entered:  # in a forked child, which has left it
            return
        signal.set_wakeup_fd(self._before)
        self._put_back()
        _entered.remove(self)
        self._ended.set()
        with suppress(BlockingIOError):  # the pipe is full, so the thread does not wait for it
            os.write(self._writing, END)
        self._thread.join(GRACE_SECONDS)
        if not self._thread.is_alive():  # else it may still read there
            self._close()

    def __bool__(self) -> bool:
        return bool(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        self._handle(number, frame)

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _close(self) -> None:
        os.close(self._writing)
        os.close(self._reading)

    def _leave_in_child(self) -> None:
        """Have no part in the signals of the parent, whose pipe and handlers were inherited."""
        self._put_back()
        self._close()

    def _watch(self) -> None:
        seen: list[int] = []
        while not self._ended.is_set():
            for number in os.read(self._reading, 64):
                if number in self._numbers:
                    seen.append(number)
                    self._watched(seen)

    def _end_at_once(self, code: int) -> None:
        """End the process, unless what is at work ends soon, or has begun to save by now."""
        if not self._ended.wait(GRACE_SECONDS) and _entered[-1:] == [self]:
            leave_at_once(code, "interrupted")


class Interrupts(Signals):
    """Signals that ask a run to save what it has; see the module.

    Args:
        act: called from the thread at the first signal; `also` adds others.
    """

    def __init__(self, act: Callable[[], None] = lambda: None):
        super().__init__(ASKING)
        self._acts = [act]
        self._acted = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Take the signals.

        Raises:
            KeyboardInterrupt: the process was to end already, and somebody's code went on.
        """
        if any(outer.received for outer in _entered if isinstance(outer, Endings)):
            raise KeyboardInterrupt
        return super().__enter__()

    def also(self, act: Callable[[], None]) -> None:
        """Have `act` called at the first signal, too; now, where that has come."""
        with self._lock:
            self._acts.append(act)
            late = self._acted
        if late:
            act()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received.count(number) > 1:
            raise KeyboardInterrupt

    def _leave_in_child(self) -> None:
        super()._leave_in_child()
        self._lock = threading.Lock()  # a thread that is not here may have held it

    def _watched(self, seen: list[int]) -> None:
        if len(seen) == 1:
            self._act()
        elif seen[-1] == signal.SIGINT and seen.count(signal.SIGINT) > 1:
            self._end_at_once(INTERRUPTED)

    def _act(self) -> None:
        with self._lock:
            self._acted, acts = True, list(self._acts)
        for act in acts:
            act()


class Endings(Signals):
    """Signals that end the process, while there is nothing to save.

    The handlers that were there, such as the one that raises KeyboardInterrupt, do what they do. If
    the main thread does not leave the block then, for it is inside TensorFlow and waits for data
    that never come, the process is ended; at a second SIGINT without delay. A signal that the
    system itself handles, or that is ignored, stays so. Other threads than the main one have no
    signals.
    """

    def __init__(self) -> None:
        super().__init__([each for each in ASKING if callable(signal.getsignal(each))])

    @property
    def code(self) -> int:
        """The exit code: 128 and the first signal, as a shell has it."""
        return ended_by(self.received[0]) if self.received else INTERRUPTED

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            super().__enter__()
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._previous[number](number, frame)

    def _watched(self, seen: list[int]) -> None:
        code = ended_by(seen[0])
        if len(seen) == 1:
            threading.Thread(target=self._end_at_once, args=(code,), daemon=True).start()
        elif seen[-1] == signal.SIGINT and seen.count(signal.SIGINT) > 1:
            leave_at_once(code, "interrupted")


def _before_fork() -> None:
    """Hold signals back: a child would write them to its parent's pipe until it has left it."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING) if _entered else None


def _after_fork_in_parent() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _after_fork_in_child() -> None:
    if _entered:
        signal.set_wakeup_fd(-1)
    for interrupts in reversed(_entered):
        interrupts._leave_in_child()
    _entered.clear()
    _after_fork_in_parent()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
