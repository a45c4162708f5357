"""The user's own arrays: a .npz file, or .npy files, memory-mapped and never unpickled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

MEMBERS = ("x", "y", "x_val", "y_val")
MOST_NAMED = 12


def build(
    *,
    path: str,
    batch_size: int,
    seed: int,
    labels: str | None = None,
    validation_fraction: float = 0.2,
    shuffle: bool = True,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    examples: int | None = None,
    scale: float | None = None,
    name: str = "arrays",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Examples from x (rows, ...) and labels from y (rows, ...), with x_val and y_val or without.

    x of uint8 is scaled to [0, 1]; x of wider integers stays int32 (token ids); other x becomes
    float32. Integer y are classes (int32; any further axes, as a mask's, are kept), float y the
    targets of a regression. Files above 64 MiB stay memory-mapped; a compressed .npz is read.
    All rows are looked at once for NaN and labels out of range.

    Args:
        path: a .npz file with x, y and perhaps x_val, y_val; or a folder of such .npy files; or a
            .npy file of x, together with one of y in `labels`.
        shape: each example is reshaped to it; null leaves it as it is.
        classes: labels must be in [0, classes); null takes the largest label plus one.
        scale: factor for x; null: 1/255 for uint8, none for others.

    Raises:
        ConfigurationError: a file or array is missing, empty, truncated or pickled.
    """
    file = Path(path).expanduser()
    found = _arrays(file, labels)
    if ("x_val" in found) != ("y_val" in found):
        raise ConfigurationError("x_val and y_val must come together", where=path)
    names = _names(file, labels)
    train = _reshaped(Examples(found["x"], found["y"], path, names), shape)
    held_out = None
    if "x_val" in found:
        names = _names(file, labels, "_val")
        part = Examples(found["x_val"], found["y_val"], f"{path} (_val)", names)
        held_out = _reshaped(part, shape)
    return from_arrays(
        train,
        held_out,
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=validation_fraction if held_out is None else None,
        shuffle=shuffle,
        classes=classes,
        take=examples,
        scale=scale,
        held_out_name="x_val",
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _arrays(path: Path, labels: str | None) -> dict[str, np.ndarray]:
    if not path.exists():
        raise _unusable(path, "does not exist", "give a .npz file, a folder, or a .npy file")
    if path.is_dir():
        return _required(
            {name: _npy(path / f"{name}.npy") for name in MEMBERS if _given(path, name)},
            path,
            ".npy",
        )
    if path.suffix == ".npz":
        found, names = _npz(path)
        return _required(found, path, "", names)
    if path.suffix != ".npy":
        raise _unusable(path, "is neither .npz, nor .npy, nor a folder", "convert it by numpy.save")
    if labels is None:
        raise ConfigurationError(
            f"{path.name} holds the examples alone",
            where="dataset.labels",
            remedy="set dataset.labels to the .npy file of y",
        )
    return {"x": _npy(path), "y": _npy(Path(labels).expanduser(), "dataset.labels")}


def _names(path: Path, labels: str | None, suffix: str = "") -> tuple[str, str]:
    """What to call x and y in a few words."""
    if path.is_dir():
        return f"x{suffix}.npy", f"y{suffix}.npy"
    if labels is not None and path.suffix == ".npy":
        return path.name, Path(labels).name
    return f"{path.name} (x{suffix})", f"{path.name} (y{suffix})"


def _given(folder: Path, name: str) -> bool:
    return (folder / f"{name}.npy").exists()


def _required(
    found: dict[str, np.ndarray], path: Path, ending: str, names: list[str] | None = None
) -> dict[str, np.ndarray]:
    """`found`, with x and y in it; `names` are those of all arrays that are there."""
    for name in ("x", "y"):
        if name not in found:
            named = sorted(found) if names is None else names
            others = f", it has {', '.join(named[:MOST_NAMED])}" if named else ""
            raise _unusable(
                path,
                f"has no {name}{ending}{others}",
                f"name the examples x{ending} and the labels y{ending}",
            )
    return found


def _npy(file: Path, key: str = "dataset.path") -> np.ndarray:
    if not file.is_file():
        raise ConfigurationError(f"{file} does not exist", where=key)
    if file.stat().st_size == 0:
        raise _unusable(file, "is empty")
    try:
        with file.open("rb") as stream:
            shape, order, dtype = _header(stream)
            start = stream.tell()
        return _mapped(file, shape, order, dtype, start, file.stat().st_size - start)
    except (ValueError, EOFError, OSError) as error:
        raise _unusable(file, f"is no whole .npy file: {error}") from None


def _npz(file: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that are ours, and the names of all that the file holds."""
    if file.stat().st_size == 0:
        raise _unusable(file, "is empty")
    found, names = {}, []
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                names.append(name)
                if name in MEMBERS:
                    found[name] = _member(file, archive, entry)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        ValueError,
        EOFError,
        OSError,
    ) as error:
        raise _unusable(file, f"is no whole .npz file: {error}") from None
    return found, names


def _member(file: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array of an archive: mapped where it lies uncompressed, read otherwise."""
    with archive.open(entry) as stream:
        shape, order, dtype = _header(stream)
        header = stream.tell()
        if entry.compress_type != zipfile.ZIP_STORED:
            content = stream.read()
            return np.frombuffer(content, dtype).reshape(shape, order="F" if order else "C")
    with file.open("rb") as raw:
        raw.seek(entry.header_offset)
        local = raw.read(30)  # a zip's local header: lengths of name and extra field at its end
        name_length, extra_length = struct.unpack("<HH", local[26:30])
    start = entry.header_offset + 30 + name_length + extra_length + header
    return _mapped(file, shape, order, dtype, start, entry.file_size - header)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; a ValueError where it is no .npy or pickled."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the format is not read")
    if dtype.hasobject:
        raise ValueError(f"it holds pickled objects ({dtype}), which are never loaded")
    return shape, order, dtype


def _mapped(
    file: Path, shape: tuple[int, ...], order: bool, dtype: np.dtype, start: int, size: int
) -> np.ndarray:
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size < expected:
        raise ValueError(
            f"truncated, shape {shape} of {dtype} asks for {expected} bytes, there are {size}"
        )
    if expected == 0:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", start, shape, order="F" if order else "C")


def _reshaped(part: Examples, shape: Sequence[int] | None) -> Examples:
    if shape is None or part.x.ndim == 0 or len(part.x) == 0:
        return part
    have = int(np.prod(part.x.shape[1:], dtype=object))
    if have != int(np.prod(shape, dtype=object)):
        raise ConfigurationError(
            f"examples of shape {part.x.shape[1:]} ({have} numbers) cannot take the shape "
            f"{tuple(shape)}",
            where="dataset.shape",
        )
    return replace(part, x=part.x.reshape(len(part.x), *shape))


def _unusable(file: Path, what: str, remedy: str | None = None) -> ConfigurationError:
    return ConfigurationError(
        f"{file.name} {what}", where=str(file), remedy=remedy or "write the file again"
    )
