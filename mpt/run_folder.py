"""The folder of a run.

    .hydra/{config,overrides,hydra}.yaml   the resolved configuration and how it was asked for
    report.json         the report, written last
    precision.json      one row a layer
    metrics.jsonl       one wide row a logged step
    tensorboard/        event files
    model.keras         the trained model
    train.log           what the console said
    checkpoints/        what an interrupted run goes on from
    .lock               held while a process trains here

A file appears whole or not at all, but for those that grow: to `metrics.jsonl`, `train.log` and the
event files whole pieces are appended, so at most the last one is partial after a kill.
"""

import errno
import json
import os
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from mpt import folder_lock
from mpt.append_file import AppendFile, Removed
from mpt.errors import ConfigurationError
from mpt.report import decode, encode, open_regular, read_regular
from mpt.whole_file import PARTIAL, replacing

REPORT = "report.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
TENSORBOARD = "tensorboard"
HYDRA = ".hydra"
MODEL = "model.keras"
OWN = (REPORT, METRICS, MODEL, "precision.json")  # of a run, and not to be written over
CHECKPOINTS = "checkpoints"
ROOM = 2**17  # bytes: what a run writes before it trains takes less
LONGEST_END = 2**20
LARGEST_METRICS = 2**29
"""Bytes of metrics.jsonl that are read: about half a million rows."""


_open: "weakref.WeakSet[RunFolder]" = weakref.WeakSet()


class FolderGone(Exception):
    """The run's folder was moved, removed or replaced while the run was at work."""


class RunFolder:
    """An existing, writable folder of one run. Use `create` or `reopen`, and then `with`.

    Attributes:
        path: absolute path.
        tell: told in words of what is lost while the run goes on; None: that is an error.
    """

    def __init__(self, path: Path):
        self.path = path
        self.tell: Callable[[str], None] | None = None
        self._growing: dict[str, AppendFile] = {}
        self._lock: IO[bytes] | None = None
        self._identity: tuple[int, int] | None = None
        _open.add(self)

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Make the folder, its parents too; what lies in it already, but a run, may stay.

        Raises:
            ConfigurationError: a run is there already, another process is at work there, or
                nothing can be written there.
        """
        folder = Path(os.path.abspath(path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        opened = cls.reopen(folder)
        found = [name for name in OWN if (folder / name).exists()]
        found += [f"{CHECKPOINTS}/{path.name}" for path in (folder / CHECKPOINTS).glob("*.ckpt")]
        if found:
            opened.close()
            raise ConfigurationError(
                f"There is a run in this folder already: {found[0]}.",
                where=f"run_dir={folder}",
                remedy="name another folder, or leave run_dir out to get a new one",
            )
        return opened

    @classmethod
    def reopen(cls, path: str | Path) -> "RunFolder":
        """The existing folder of a run that is to go on, which no other process may train in.

        Raises:
            ConfigurationError: another process is at work there, or nothing can be written there.
        """
        opened = cls(Path(os.path.abspath(path)))
        _refuse_links(opened.path)
        try:
            opened._lock = folder_lock.locked(opened.path)
            with tempfile.TemporaryFile(dir=opened.path, buffering=0) as file:
                if file.write(bytes(ROOM)) < ROOM:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            opened._identity = _identity(opened.path)
            if is_run(opened.path):  # else it may be anybody's
                for folder in (opened.path, opened.path / HYDRA):
                    for partial in folder.glob(f"{PARTIAL}*"):  # of a process that was killed
                        partial.unlink(missing_ok=True)
        except OSError as error:
            opened.close()
            raise _unwritable(opened.path, error) from error
        return opened

    @property
    def tensorboard(self) -> Path:
        """Folder of the event files; made by whoever writes there first."""
        return self.path / TENSORBOARD

    def write_json(self, name: str, content: Any) -> Path:
        """Write `content` to the file `name`, atomically; non-finite numbers become strings."""
        return self.write_text(name, json.dumps(encode(content), indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` to the file `name`, atomically: a reader sees the old file or the new.

        Raises:
            OSError: it cannot be written; the old file is as it was.
            FolderGone: somebody took the folder away.
        """
        self.check()
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        temporary = target.with_name(f"{PARTIAL}{os.getpid()}-{target.name}")
        with replacing(target, temporary) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        return target

    def write_hydra(
        self, *, config: str, overrides: str = "[]\n", hydra: str | None = None
    ) -> None:
        """Write YAML texts to `.hydra/`, as Hydra itself lays them."""
        texts = {"config": config, "overrides": overrides, "hydra": hydra}
        for name, text in texts.items():
            if text is not None:
                self.write_text(f"{HYDRA}/{name}.yaml", text)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl`: step, epoch, wall_seconds and tags.

        A value of None was not measured, and is left out.

        Raises:
            FolderGone: somebody took the folder away.
        """
        self.check()
        kept = {key: value for key, value in row.items() if value is not None}
        self._append(METRICS, orjson.dumps(encode(kept)).decode())

    def log(self, line: str) -> None:
        """Append to `train.log`, with the time (UTC) before the first line."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._append(LOG, f"{now} {line}")

    def is_there(self) -> bool:
        """Whether the folder is the one it was: what is written to open files is lost unseen else,
        and what is written by name goes where another run may be.
        """
        return self._identity is None or self._identity == _identity(self.path)

    def check(self) -> None:
        """Nothing, where the folder is there.

        Raises:
            FolderGone: it is not.
        """
        if not self.is_there():
            raise FolderGone("The run's folder is no longer there.")

    def growing(self, path: Path) -> AppendFile:
        """A file of the folder that grows; `tell` hears of what is lost."""
        return AppendFile(path, self._lost, self.is_there)

    def size(self, path: Path) -> int:
        """Bytes in a file of the folder; 0 where there is none."""
        try:
            return path.stat().st_size
        except OSError:
            return 0

    def cut(self, path: Path, size: int) -> None:
        """Take off what lies behind the first `size` bytes of a file, where there is more."""
        if self.size(path) > size:
            os.truncate(path, size)

    def cut_metrics(self, size: int) -> None:
        """Cut `metrics.jsonl` to `size` bytes, and to whole rows.

        Its end may be torn or missing, as after a power failure or by somebody's hand.
        """
        path = self.path / METRICS
        self.cut(path, size)
        whole = _whole_rows(path)
        if whole < self.size(path):
            os.truncate(path, whole)
            self._say(f"{METRICS} had a broken end, which was taken off.")

    def relative(self, path: str | Path) -> str:
        """`path`, which lies in this folder, relative to it: what the report's artifacts hold."""
        return Path(os.path.abspath(path)).relative_to(self.path).as_posix()

    def close(self) -> None:
        """Close the files that grow, and let other processes in."""
        for file in self._growing.values():
            file.close()
        self._growing.clear()
        if self._lock is not None:
            folder_lock.release(self._lock, self.path)
            self._lock = None

    def _leave_in_child(self) -> None:
        """Have no part in the lock, which a forked worker would hold beyond the end of its run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, name: str, line: str) -> None:
        file = self._growing.get(name)
        if file is None:
            file = self._growing[name] = self.growing(self.path / name)
        file.append(f"{line}\n".encode("utf-8", "backslashreplace"))

    def _lost(self, path: Path, error: OSError) -> None:
        """Tell that a file of the folder cannot be written, or was taken away."""
        if self.tell is None:
            raise error
        name = self.relative(path)
        if isinstance(error, Removed):
            self._say(f"{name} was removed. It is begun anew; what it held is lost.")
            return
        self._say(
            f"{name} cannot be written: {error.strerror}. "
            "The run goes on; what it has to say meanwhile is not in that file."
        )

    def _say(self, text: str) -> None:
        if self.tell is not None:
            self.tell(text)


def _after_fork_in_child() -> None:
    for folder in list(_open):
        folder._leave_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; `path` is the file or the run's folder.

    A last line that is still being written is left out.

    Raises:
        ConfigurationError: there is no such file, or a line before the last is no JSON object.
    """
    file = Path(path)
    file = file / METRICS if os.path.isdir(file) else file
    try:
        content = read_regular(file, LARGEST_METRICS)
    except OSError as error:
        raise ConfigurationError(
            f"No metrics can be read: {error.strerror}.", where=str(file)
        ) from error
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(
                f"This line is not JSON: {error}.", where=f"{file}:{number}"
            ) from error
        if not isinstance(row, dict):
            raise ConfigurationError("This line is not a row of metrics.", where=f"{file}:{number}")
        rows.append({key: decode(value) for key, value in row.items()})
    return rows


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run's, which its configuration is written into first of all."""
    return os.path.exists(folder / HYDRA / "config.yaml")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write what a run begins with into an error of its folder's.

    Raises:
        ConfigurationError: that has happened.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"The run's folder cannot be written: {error.strerror}.",
        where=f"run_dir={folder}",
        remedy="name a folder that you may write to, with space left",
    )


def _refuse_links(folder: Path) -> None:
    """Refuse a folder in which what a run writes to would be written elsewhere, or waited for.

    A folder to resume may be another user's; through a link it would have us write to our own
    files, and cut them off.
    """
    folders = [folder / name for name in (HYDRA, TENSORBOARD, CHECKPOINTS)]
    events = sorted((folder / TENSORBOARD).glob("*"))
    for path in (*folders, folder / METRICS, folder / LOG, *events):
        try:
            mode = os.lstat(path).st_mode
        except OSError:  # nothing is there
            continue
        if stat.S_ISLNK(mode) if path in folders else not stat.S_ISREG(mode):
            kind = "folder" if path in folders else "regular file"
            raise ConfigurationError(
                f"{path.relative_to(folder)} is no {kind} of the run.",
                where=f"run_dir={folder}",
                remedy="take the link or the device away, or name another folder",
            )


def _whole_rows(path: Path) -> int:
    """Bytes of a file of rows up to the last whole one, looked for from its end."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - LONGEST_END))
            if whole := _to_last_row(file.read()):
                return start + whole
            file.seek(0)
            return _to_last_row(file.read(start))
    except OSError:
        return 0


def _to_last_row(content: bytes) -> int:
    """Bytes up to the end of the last row that is whole; 0 where there is none."""
    end = content.rfind(b"\n") + 1
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if _is_row(content[start:end]):
            break
        end = start
    return end


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
