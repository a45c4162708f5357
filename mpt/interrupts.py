"""Signals that ask a run to save what it has and end, and one that ends it at once.

SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 ask (batch systems send one of the latter three ahead of a time
limit). A second SIGINT ends the process at once; one SIGINT after another signal does not, for a
parent hands on what a batch system has sent to parent and child alike.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mpt.errors import INTERRUPTED

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GRACE_SECONDS = 2.0  # for what is at work to end by KeyboardInterrupt


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
        self._previous = {number: signal.signal(number, self._receive) for number in ASKING}
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._ended.set()
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)

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

    def _watch(self) -> None:
        seen: list[int] = []
        while content := os.read(self._reading, 64):
            for number in content:
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
