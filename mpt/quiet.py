"""Keeping from stderr what C++ code prints there, past Python."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet(*, kept: bool = True) -> Iterator[None]:
    """Turn the descriptor of stderr away meanwhile, which all threads of the process share.

    Args:
        kept: what an exception's code has printed is shown after it all the same.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            if kept:
                aside.seek(0)
                sys.stderr.write(aside.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
