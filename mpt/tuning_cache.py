"""What was measured on this machine before, in a file: so no run measures it again.

The file is `tuning.json` in `$MPT_CACHE`, else in `$XDG_CACHE_HOME/mpt`, else in `~/.cache/mpt`. It
may be deleted at any time. Where it cannot be read or written, there is none.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mpt import __version__
from mpt.device import Device, cores
from mpt.report import open_regular
from mpt.whole_file import PARTIAL, replacing

NAME = "tuning.json"
FORMAT = 1
MOST = 1000  # entries; the oldest go
LONGEST = 2**24  # bytes of the file; a thousand entries take half a MiB
DAYS = 30  # after which an entry is measured anew: it may have been a bad moment
SPEED = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")
"""Variables of the environment on which a step's speed depends."""


class TuningCache:
    """Measured values by their subject, which is all that they depend on.

    Args:
        machine: goes into every subject.
        path: the file; None keeps nothing.
    """

    def __init__(self, machine: Mapping[str, Any], path: Path | None):
        self._machine, self._path = dict(machine), path

    def get(self, **subject: Any) -> dict[str, Any] | None:
        """What `put` was given for this subject, on this machine, in the last `DAYS` days.

        Nothing is known of its content: it is for the caller to check.
        """
        entry = self._entries().get(self._key(subject))
        return dict(entry["value"]) if entry is not None else None

    def put(self, value: Mapping[str, Any], **subject: Any) -> None:
        """Keep `value`, of plain JSON values, in place of an earlier one."""
        if self._path is None:
            return
        entries = self._entries()
        entries.pop(key := self._key(subject), None)  # the newest comes last
        entries[key] = {
            "subject": {**self._machine, **subject},
            "value": {**value},
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        kept = dict(list(entries.items())[-MOST:])
        text = json.dumps({"format": FORMAT, "entries": kept}, indent=1) + "\n"
        path = self._path
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")) as file:
                file.write(text.encode())

    def _entries(self) -> dict[str, Any]:
        """Those that are whole and not too old; another process may write the file meanwhile."""
        if self._path is None:
            return {}
        try:
            with open_regular(self._path) as file:
                content = json.loads(file.read(LONGEST))
            if content["format"] != FORMAT:
                return {}
            found = dict(content["entries"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return {}
        return {key: entry for key, entry in found.items() if _is_usable(entry)}

    def _key(self, subject: Mapping[str, Any]) -> str:
        return digest({**self._machine, **subject})


NOTHING_KEPT = TuningCache({}, None)


def opened(device: Device, *, wanted: bool) -> TuningCache:
    """The cache of this user for `device`; one that keeps nothing where it is not wanted."""
    return TuningCache(_machine(device), _path() if wanted else None)


def digest(content: Any) -> str:
    """A name for plain JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _machine(device: Device) -> dict[str, Any]:
    import keras  # here, as only a run has paid for them
    import tensorflow as tf

    return {
        "device": device.kind,
        "name": device.name,
        "count": device.count,
        "driver": device.driver,
        "cores": cores(),
        "mpt": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        **{name: os.environ[name] for name in SPEED if name in os.environ},
    }


def _path() -> Path | None:
    if own := os.environ.get("MPT_CACHE"):
        return Path(own) / NAME
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    except RuntimeError:  # no home
        return None
    return folder / "mpt" / NAME


def _is_usable(entry: Any) -> bool:
    try:
        measured = datetime.fromisoformat(entry["measured"])
        age = datetime.now(UTC) - measured
    except (LookupError, TypeError, ValueError):
        return False
    return isinstance(entry.get("value"), dict) and abs(age) < timedelta(days=DAYS)
