"""Text: a file's bytes, or the token ids that nanoGPT's scripts write, in windows of equal length.

A `.bin` file is what github.com/karpathy/nanoGPT's data/*/prepare.py leave: unsigned integers of
16 bits in the machine's order, one after the other, without a header. It is mapped, not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpt.data import checks
from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

TRAINING, HELD_OUT = "train.bin", "val.bin"
HELD_OUT_SHARE = 0.1
BYTES = 256
"""Size of the vocabulary of bytes."""

ID_TYPES = {"uint16": np.uint16, "uint32": np.uint32}
CHUNK = 2**24


def build(
    *,
    batch_size: int,
    seed: int,
    path: str,
    length: int = 128,
    vocabulary: int | None = None,
    ids: str = "uint16",
    validation_fraction: float | None = None,
    examples: int | None = None,
    shuffle: bool = True,
    name: str = "text",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Windows of text: x int32 (length,), y int32 (length,) the next token at each place.

    The windows lie side by side, so that each token is predicted once an epoch; what is left at
    the end of a file is not used. No token is broken: `on_error` has no use here.

    Args:
        path: any file, whose bytes are the tokens; a `.bin` file of ids, uint16 or uint32 as `ids`
            says; or a folder with `train.bin`, and `val.bin` for validation.
        length: of a window, tokens.
        vocabulary: ids are below it; null takes 256 for bytes, and else the largest id plus one.
        validation_fraction: this share at the end of the text is for validation; null takes
            `val.bin` where there is one, and else 0.1.
        examples: draw only so many of the training windows.

    Raises:
        ConfigurationError: no such file, a text shorter than a window, ids beyond the vocabulary.
    """
    checks.batch(batch_size)
    if length < 1:
        raise ConfigurationError(
            f"windows of {length} tokens", where="dataset.length", allowed=["1 or more"]
        )
    file, held_out = _files(Path(path).expanduser(), ids)
    tokens = _tokens(file, ids)
    if held_out is not None and validation_fraction is None:
        parts = {file: tokens, held_out: _tokens(held_out, ids)}
    else:
        share = HELD_OUT_SHARE if validation_fraction is None else validation_fraction
        parts = _split(file, tokens, checks.fraction(share))
    vocabulary = _vocabulary(parts, vocabulary)
    train, *others = (_windows(part, where, length) for where, part in parts.items())
    return from_arrays(
        train,
        others[0] if others else None,
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=None if others else 0.0,
        shuffle=shuffle,
        classes=vocabulary,
        take=examples,
        held_out_name=_source(validation_fraction, held_out),
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _source(fraction: float | None, held_out: Path | None) -> str:
    if fraction is None and held_out is not None:
        return held_out.name
    return f"the last {HELD_OUT_SHARE if fraction is None else fraction:g} of the text"


def _files(path: Path, ids: str) -> tuple[Path, Path | None]:
    """The file to train on, and one for validation where there is one."""
    if ids not in ID_TYPES:
        raise ConfigurationError(
            f"ids of {ids!r}", where="dataset.ids", value=ids, allowed=list(ID_TYPES)
        )
    held_out = None
    if path.is_dir():
        path, held_out = path / TRAINING, path / HELD_OUT
        if not path.is_file():
            raise ConfigurationError(
                f"{path.parent} has no {TRAINING}",
                where="dataset.path",
                remedy=f"give a text file, or a folder with {TRAINING} and {HELD_OUT}",
            )
    elif not path.is_file():
        raise ConfigurationError(f"{path} is no file and no folder", where="dataset.path")
    return path, held_out if held_out is not None and held_out.is_file() else None


def _tokens(file: Path, ids: str) -> np.ndarray:
    """The tokens of `file`, mapped."""
    kind = np.dtype(ID_TYPES[ids] if file.suffix == ".bin" else np.uint8)
    size = file.stat().st_size
    if size % kind.itemsize:
        raise ConfigurationError(
            f"{file.name} has {size} bytes, which are no whole ids of {kind.itemsize} bytes",
            where="dataset.path",
            remedy="write the file again, or set dataset.ids to what it holds",
        )
    if size == 0:
        raise ConfigurationError(f"{file} is empty", where="dataset.path")
    return np.memmap(file, kind, "r")


def _split(file: Path, tokens: np.ndarray, share: float) -> dict[Path, np.ndarray]:
    """The beginning for training, and the end for validation."""
    end = len(tokens) - int(len(tokens) * share)
    if not share:
        return {file: tokens}
    return {file: tokens[:end], Path(f"{file} (the end)"): tokens[end:]}


def _vocabulary(parts: dict[Path, np.ndarray], given: int | None) -> int:
    """The size of the vocabulary; ConfigurationError where ids are beyond the one given."""
    if given is not None and given < 1:
        raise ConfigurationError(
            f"a vocabulary of {given}", where="dataset.vocabulary", allowed=["1 or more"]
        )
    if given is None and all(part.dtype == np.uint8 for part in parts.values()):
        return BYTES
    largest = {where: _largest(part) for where, part in parts.items()}
    where, most = max(largest.items(), key=lambda item: item[1])
    if given is not None and most >= given:
        raise ConfigurationError(
            f"{where} holds the id {most}, the vocabulary has {given}",
            where="dataset.vocabulary",
            remedy=f"set dataset.vocabulary={most + 1} or more, or null; or dataset.ids to what "
            "the file holds",
        )
    return most + 1 if given is None else given


def _largest(tokens: np.ndarray) -> int:
    starts = range(0, len(tokens), CHUNK)
    return max(int(tokens[start : start + CHUNK].max()) for start in starts)


def _windows(tokens: np.ndarray, where: Path, length: int) -> Examples:
    """Views of `tokens`: what is read and, one place later, what is to be predicted."""
    rows = (len(tokens) - 1) // length
    if rows < 1:
        raise ConfigurationError(
            f"{where} has {len(tokens)} tokens, fewer than a window of {length} and the token "
            "after it",
            where="dataset.length",
            remedy="take shorter windows, a longer text, or another dataset.validation_fraction",
        )
    x, y = (tokens[start : start + rows * length].reshape(rows, length) for start in (0, 1))
    return Examples(x, y, str(where), tokens=True)
