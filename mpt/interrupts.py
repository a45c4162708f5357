"""Signals that ask a run to save what it has and end, and one that ends it at once.

SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 ask (batch systems send one of the latter three ahead of a time
limit). A second SIGINT ends the process at once; one SIGINT after another signal does not, for a
parent hands on what a batch system has sent to parent and child alike.

A forked child, such as a worker of a user's generator, has none of this: signals do to it what they
did before.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from mpt.errors import INTERRUPTED

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 2.0  # for what is at work to end by KeyboardInterrupt
END = b"\0"  # no signal's number

_entered: list["Interrupts"] = []
_masks = threading.local()  # of the thread that forks


class Interrupts:
    """The signals received within `with`, in the main thread.

    Python's own handlers wait until the interpreter runs again, which may be many steps of a device
    call later. So the system's part writes each signal to a pipe as well, and a thread reads it.

    Args:
        act: called from that thread at the first signal; `also` adds others.

    Attributes:
        received: signal numbers in their order.
    """

    def __init__(self, act: Callable[[], None] = lambda: None):
        self.received: list[int] = []
        self._acts = [act]
        self._acted = False
        self._lock = threading.Lock()
        self._previous: dict[int, Any] = {}
        self._ended = threading.Event()

    def __enter__(self) -> "Interrupts":
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        _entered.append(self)
        self._previous = {number: signal.signal(number, self._receive) for number in ASKING}
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._thread.start()
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

    def also(self, act: Callable[[], None]) -> None:
        """Have `act` called at the first signal, too; now, where that has come."""
        with self._lock:
            self._acts.append(act)
            late = self._acted
        if late:
            act()

    def __bool__(self) -> bool:
        return bool(self.received)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if number == signal.SIGINT and self.received.count(number) > 1:
            raise KeyboardInterrupt

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
        self._lock = threading.Lock()  # a thread that is not here may have held it

    def _watch(self) -> None:
        seen: list[int] = []
        while not self._ended.is_set():
            for number in os.read(self._reading, 64):
                if number not in ASKING:
                    continue
                seen.append(number)
                if len(seen) == 1:
                    self._act()
                elif number == signal.SIGINT and seen.count(number) > 1:
                    self._end_at_once()

    def _act(self) -> None:
        with self._lock:
            self._acted, acts = True, list(self._acts)
        for act in acts:
            act()

    def _end_at_once(self) -> None:
        if not self._ended.wait(GRACE_SECONDS):
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)


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
