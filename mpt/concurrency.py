"""Who else is at work on this machine: jobs that run at the same time, and a GPU for each.

Both are told by locked files in the system's folder of temporary files. A lock ends with its
process, however that ends, so nothing has to be cleaned up after a kill.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

POLL_SECONDS = 0.5


class Presence:
    """This process as one of the machine's jobs, within `with`.

    Attributes:
        most: the most jobs that were counted at once, this one included; 1: it was alone.
    """

    def __init__(self) -> None:
        self.most = 1
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Presence":
        folder = _folder("jobs")
        if folder is not None:
            # Locked before it has its name: another process would take an unlocked one away.
            name = str(os.getpid())
            self._file = _try_lock(folder / f".{name}")
            if self._file is not None:
                os.rename(folder / f".{name}", folder / name)
        self.count()
        return self

    def count(self) -> int:
        """Jobs at work at this moment, this one included."""
        folder = _folder("jobs")
        others = 0
        for path in folder.iterdir() if folder is not None else ():
            if path.name == str(os.getpid()) or path.name.startswith("."):
                continue
            file = _try_lock(path)
            if file is None:
                others += 1
            else:  # its process is gone
                path.unlink(missing_ok=True)
                file.close()
        self.most = max(self.most, others + 1)
        return others + 1

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            Path(self._file.name).with_name(str(os.getpid())).unlink(missing_ok=True)
            self._file.close()
            self._file = None


@contextmanager
def own_gpu(stopped: Callable[[], bool] = lambda: False) -> Iterator[dict[str, str]]:
    """A GPU that no other job of this kind has, as environment variables for a child process.

    It waits for one while all are taken. Nothing is set where there are fewer than two GPUs.

    Args:
        stopped: asked while waiting; True ends the wait, with nothing set.
    """
    gpus = visible_gpus()
    folder = _folder("gpus") if len(gpus) > 1 else None
    if folder is None:
        yield {}
        return
    while not stopped():
        for gpu in gpus:
            file = _try_lock(folder / gpu.replace("/", "-"))
            if file is not None:
                with file:
                    yield {"CUDA_VISIBLE_DEVICES": gpu}
                return
        time.sleep(POLL_SECONDS)
    yield {}


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, or else the numbers of all NVIDIA cards."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no library, no driver: no GPU to share out
        return []


def _folder(name: str) -> Path | None:
    """This user's folder of locks; None where it cannot be made, or is another user's."""
    path = Path(tempfile.gettempdir()) / f"mpt-{os.getuid()}" / name
    with suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid == os.getuid():
            return path
    return None


def _try_lock(path: Path) -> IO[bytes] | None:
    """The file, opened and locked; None where another process holds it."""
    try:
        file = open(path, "ab")  # noqa: SIM115, the lock lasts as long as it is open
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
