"""The lock of a run's folder: one process at a time trains there."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from mpt.append_file import open_to_append
from mpt.errors import ConfigurationError

LOCK = ".lock"
MOST_LOCKS = 100  # tries; some file systems never say that a path is the file just opened there


def locked(folder: Path) -> IO[bytes]:
    """The lock of the folder, which ends with this process, however that ends.

    Raises:
        ConfigurationError: another process holds it.
        OSError: there is no folder, or it cannot be written.
    """
    for left in reversed(range(MOST_LOCKS)):
        file = open_to_append(folder / LOCK, follow=False)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigurationError(
                "Another process is training in this folder.",
                where=f"run_dir={folder}",
                remedy="wait for its end, or name another folder",
            ) from None
        except OSError:
            return file  # a file system without locks
        if _is_at(file, folder / LOCK) or not left:
            break
        file.close()  # its holder has just ended, and removed it
    return file


def release(lock: IO[bytes], folder: Path) -> None:
    """Let other processes into the folder."""
    if _is_at(lock, folder / LOCK):  # not another run's
        with suppress(OSError):  # what is left of it is no lock
            (folder / LOCK).unlink()
    lock.close()


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open `file` is what lies at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False
