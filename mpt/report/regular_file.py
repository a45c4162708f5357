"""Opens files that somebody else put there."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def read_regular(path: str | Path, largest: int) -> bytes:
    """The content of the file `path`.

    Args:
        largest: bytes that such a file has at most.

    Raises:
        OSError: as `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        # By its size first: what is not there, as of a file with holes, is memory all the same.
        fits = os.fstat(file.fileno()).st_size <= largest
        content = file.read(largest + 1) if fits else b""
    if not fits or len(content) > largest:
        raise OSError(errno.EFBIG, f"Larger than {largest // 2**20} MiB", str(path))
    return content


def open_regular(path: str | Path) -> BinaryIO:
    """The file `path`, opened to be read.

    Raises:
        OSError: it cannot be opened, or is no regular file: a pipe would be waited for without end.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")
