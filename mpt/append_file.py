"""A file that grows by whole pieces, whatever becomes of the disk and of the file."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

MODE = 0o666  # less the umask, as with `open`


class Removed(OSError):
    """The file was moved, removed or replaced while it was written to."""


def raised(path: Path, error: OSError) -> None:
    """For a file on its own: what cannot be written is an error of its writer's."""
    raise error


def always() -> bool:
    return True


class AppendFile:
    """A file that pieces are appended to, each wholly or not at all.

    Args:
        path: the file. Its folder is made where it lacks, but not that one's.
        failed: told of the first error in a row; the pieces meanwhile are left out. Also told,
            with `Removed`, of a file that was taken away: it is begun anew.
        belongs: asked before each piece; False leaves it out, untold.
    """

    def __init__(
        self,
        path: Path,
        failed: Callable[[Path, OSError], None] = raised,
        belongs: Callable[[], bool] = always,
    ):
        self.path = path
        self._failed = failed
        self._belongs = belongs
        self._failing = False
        self._file: IO[bytes] | None = None

    def append(self, content: bytes) -> None:
        """Write `content` at the end, or nothing of it."""
        if not self._belongs():
            return
        try:
            self._write(self._opened(), content)
        except OSError as error:
            if not self._failing:
                self._failing = True
                self._failed(self.path, error)
        else:
            self._failing = False

    def close(self) -> None:
        """Close it; `append` would open it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> IO[bytes]:
        if self._file is not None and not self._is_in_place(self._file):
            self.close()
            self._failed(self.path, Removed(errno.ENOENT, "it was removed", str(self.path)))
        if self._file is None:
            self.path.parent.mkdir(exist_ok=True)
            self._file = open_to_append(self.path)
        return self._file

    def _is_in_place(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _write(self, file: IO[bytes], content: bytes) -> None:
        size = os.fstat(file.fileno()).st_size
        try:
            written = file.write(content)
            while written < len(content):  # as when the disk has just become full
                written += file.write(content[written:])
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def open_to_append(path: Path, *, follow: bool = True) -> IO[bytes]:
    """A regular file, opened unbuffered to append to it, and made where there is none.

    Args:
        follow: False refuses a symbolic link.

    Raises:
        OSError: it cannot be opened, or is no regular file: a pipe would be waited for without end.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags if follow else flags | os.O_NOFOLLOW, MODE)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(handle, "ab", buffering=0)
