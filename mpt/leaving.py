"""How a process ends in which TensorFlow was at work."""

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process with `code`.

    With TensorFlow in it the interpreter is not taken down: a prefetching thread that is inside a
    user's generator then waits for the interpreter, which waits for it, for ever. What was
    registered to be done at the exit is done.
    """
    if "tensorflow.python" not in sys.modules:  # which a stand-in for it does not have
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code)
