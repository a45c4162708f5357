"""Waits that may have no end, watched from a thread: no TensorFlow here."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from mpt.errors import ConfigurationError
from mpt.leaving import leave_at_once
from mpt.printable import printable

LONGEST_POLL = 1.0
"""s between two looks at what is waited for; a quarter of the time allowed, if that is less."""

LEAVE_SECONDS = 5.0
"""s to wait for the thread at the end: it may be inside `waiting`."""


class StallWatch:
    """Tells when one and the same thing has been waited for too long, within `with`.

    Args:
        seconds: how long a wait may take. Time in which the process itself was stopped (Ctrl-Z, a
            suspended job) does not count.
        waiting: what is waited for at this moment, as a value that differs for each thing; None
            where nothing is. It is called from the watching thread.
        tell: called once a stall, from the watching thread, with the seconds waited.
    """

    def __init__(
        self,
        seconds: float,
        waiting: Callable[[], Hashable | None],
        tell: Callable[[float], None],
    ):
        self._seconds = seconds
        self._waiting = waiting
        self._tell = tell
        self._poll = min(LONGEST_POLL, seconds / 4)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall watch", daemon=True)

    def __enter__(self) -> "StallWatch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join(LEAVE_SECONDS)

    def _watch(self) -> None:
        awaited: Hashable | None = None
        waited, told = 0.0, False
        last = time.monotonic()
        while not self._left.wait(self._poll):
            now = time.monotonic()
            passed, last = min(now - last, 2 * self._poll), now
            current = self._waiting()
            if current is None or current != awaited:
                awaited, waited, told = current, 0.0, False
                continue
            waited += passed
            if waited >= self._seconds and not told:
                told = True
                self._tell(waited)


def stalled(what: str, seconds: float) -> ConfigurationError:
    """The error for `what`, which did not come in `seconds`."""
    return ConfigurationError(
        f"{what} has not come in {seconds:.3g} s",
        where="dataset.stall_seconds",
        remedy="see what the data wait for (a network share, a queue, a generator that does not "
        "end), or raise dataset.stall_seconds if they are only slow",
    )


def give_up(error: ConfigurationError) -> NoReturn:
    """End the process at once, from any thread, with `error` in one block on stderr.

    For a main thread that is inside TensorFlow, where neither a signal nor an exception reaches it.
    """
    leave_at_once(error.exit_code, f"error: {printable(str(error))}")


@contextmanager
def awaiting(
    what: str, seconds: float, tell: Callable[[ConfigurationError], None] = give_up
) -> Iterator[None]:
    """Watch one wait: `tell` gets the error where the block takes longer than `seconds`.

    Args:
        what: is awaited, in words that begin a sentence: "the first batch".
        seconds: see `StallWatch`.
        tell: called once, from the watching thread; by default it ends the process.
    """
    with StallWatch(seconds, lambda: what, lambda waited: tell(stalled(what, waited))):
        yield
