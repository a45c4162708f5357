"""The folder of a run.

    .hydra/{config,overrides,hydra}.yaml   the resolved configuration and how it was asked for
    report.json         the report, written last
    precision.json      one row a layer
    metrics.jsonl       one wide row a logged step
    tensorboard/        event files
    model.keras         the trained model
    train.log           what the console said

A file appears whole or not at all, but for the two that grow: `metrics.jsonl` and `train.log` are
flushed after each line, so at most their last line is partial.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson

from mpt.errors import ConfigurationError
from mpt.report import decode, encode, open_regular

REPORT = "report.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
TENSORBOARD = "tensorboard"


class RunFolder:
    """An existing, writable folder of one run. Use `create`; `close` it, or use it in `with`.

    Attributes:
        path: absolute path.
    """

    def __init__(self, path: Path):
        self.path = path
        self._streams: dict[str, TextIO] = {}

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Make the folder, its parents too; what lies in it already, but a run, may stay.

        Raises:
            ConfigurationError: a run is there already, or nothing can be written there.
        """
        folder = Path(os.path.abspath(path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = [name for name in (REPORT, METRICS) if (folder / name).exists()]
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"The run's folder cannot be written: {error.strerror}.",
                where=f"run_dir={folder}",
                remedy="name a folder that you may write to, with space left",
            ) from error
        if found:
            raise ConfigurationError(
                f"There is a run in this folder already: {found[0]}.",
                where=f"run_dir={folder}",
                remedy="name another folder, or leave run_dir out to get a new one",
            )
        return cls(folder)

    @property
    def tensorboard(self) -> Path:
        """Folder of the event files; made by whoever writes there first."""
        return self.path / TENSORBOARD

    def write_json(self, name: str, content: Any) -> Path:
        """Write `content` to the file `name`, atomically; non-finite numbers become strings."""
        return self.write_text(name, json.dumps(encode(content), indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` to the file `name`, atomically: a reader sees the old file or the new."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
        return target

    def write_hydra(
        self, *, config: str, overrides: str = "[]\n", hydra: str | None = None
    ) -> None:
        """Write YAML texts to `.hydra/`, as Hydra itself lays them."""
        texts = {"config": config, "overrides": overrides, "hydra": hydra}
        for name, text in texts.items():
            if text is not None:
                self.write_text(f".hydra/{name}.yaml", text)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl`: step, epoch, wall_seconds and tags.

        A value of None was not measured, and is left out.
        """
        kept = {key: value for key, value in row.items() if value is not None}
        self._append(METRICS, orjson.dumps(encode(kept)).decode())

    def log(self, line: str) -> None:
        """Append to `train.log`, with the time (UTC) before the first line."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._append(LOG, f"{now} {line}")

    def relative(self, path: str | Path) -> str:
        """`path`, which lies in this folder, relative to it: what the report's artifacts hold."""
        return Path(os.path.abspath(path)).relative_to(self.path).as_posix()

    def close(self) -> None:
        """Close the files that grow."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, name: str, line: str) -> None:
        stream = self._streams.get(name)
        if stream is None:
            stream = open(  # noqa: SIM115, closed by `close`
                self.path / name, "a", encoding="utf-8", errors="backslashreplace"
            )
            self._streams[name] = stream
        stream.write(line + "\n")
        stream.flush()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; `path` is the file or the run's folder.

    A last line that is still being written is left out.

    Raises:
        ConfigurationError: there is no such file, or a line before the last is no JSON object.
    """
    file = Path(path)
    file = file / METRICS if os.path.isdir(file) else file
    try:
        with open_regular(file) as opened:
            content = opened.read()
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


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
