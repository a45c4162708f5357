"""Where a folder of images has those to train on, and those to validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mpt.errors import ConfigurationError

TRAINING = "train"
HELD_OUT = ("val", "validation", "valid", "test")
HELD_OUT_SHARE = 0.1


def parts_of(path: Path) -> tuple[Path, Path | None]:
    """The folder to train on, which may be `path` itself, and one to validate on, if there is one.

    Raises:
        ConfigurationError: it is no folder.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder", where="dataset.path")
    own = path / TRAINING
    if not own.is_dir():
        return path, None
    return own, next((path / name for name in HELD_OUT if (path / name).is_dir()), None)


def fingerprint(*parts: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 of what is said of each file of each part, and of the file's size in bytes."""
    digest = hashlib.sha256()
    for part in parts:
        for said, file in part:
            digest.update(f"{said} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()
