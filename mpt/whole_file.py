"""Files that appear whole or not at all: a reader sees the old file or the new."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial-"  # begins the name of a file that is being written


@contextmanager
def replacing(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block has ended.

    Args:
        partial: where it is until then, in the same folder; it is gone after an error.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a rename in a folder, last through a power failure, where the
    system can.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
