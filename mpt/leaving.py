"""How a process ends in which TensorFlow was at work."""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

TIDYING_SECONDS = 2.0  # a terminal or a pipe may take nothing more

hooks: list[Callable[[], object]] = []
"""What `leave_at_once` calls first: it ends the process in the middle of everything else."""


def leave(code: int) -> NoReturn:
    """End this process with `code`.

    With TensorFlow in it the interpreter is not taken down: a prefetching thread that is inside a
    user's generator then waits for the interpreter, which waits for it, for ever. What was
    registered to be done at the exit is done.
    """
    # `python -m` ends by SIGINT, whatever the code, where a KeyboardInterrupt came through `exec`.
    by_another_signal = code > 128 + signal.SIGINT
    # A stand-in for TensorFlow has no such module.
    if "tensorflow.python" not in sys.modules and not by_another_signal:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code)


def leave_at_once(code: int, message: str) -> NoReturn:
    """End this process with `code`, from any thread, with `message` on stderr.

    For a main thread that is inside TensorFlow, where neither a signal nor an exception reaches it.
    """

    def tidy() -> None:
        for hook in list(hooks):
            with suppress(Exception):
                hook()
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            print(message, file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()

    tidying = threading.Thread(target=tidy, name="tidying", daemon=True)
    tidying.start()
    tidying.join(TIDYING_SECONDS)
    os._exit(code)


_WATCH = """
import os, select, signal, sys
process, seconds, message = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
if not select.select([sys.stdin], [], [], seconds)[0]:
    print(message, file=sys.stderr, flush=True)
    os.kill(process, signal.SIGKILL)
"""


@contextmanager
def killed_after(seconds: float, message: str) -> Iterator[None]:
    """Kill the process, with `message` on stderr, if the block takes longer.

    For a block in which a library holds the interpreter, so that no thread of ours and no handler
    of a signal can run: another process watches.
    """
    command = [sys.executable, "-E", "-S", "-c", _WATCH, str(os.getpid()), str(seconds), message]
    # In a session of its own: a Ctrl-C is not meant for it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watch:
        assert watch.stdin is not None
        try:
            yield
        finally:
            watch.stdin.close()


@contextmanager
def tidied(tidy: Callable[[], object]) -> Iterator[None]:
    """Call `tidy` when the block is left, and where the process ends at once within it."""
    hooks.append(tidy)
    try:
        yield
    finally:
        hooks.remove(tidy)
        tidy()
