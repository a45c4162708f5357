"""Fashion-MNIST from IDX files, the format of MNIST's own distribution.

H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", 2017. The format is that of
yann.lecun.com/exdb/mnist: two zero bytes, the type (8: unsigned byte), the number of dimensions,
their sizes as big-endian 32-bit integers, the content.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from mpt.data import keras_datasets
from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
UNSIGNED_BYTE = 8
FILES = {
    "training images": ("train-images-idx3-ubyte", 3),
    "training labels": ("train-labels-idx1-ubyte", 1),
    "test images": ("t10k-images-idx3-ubyte", 3),
    "test labels": ("t10k-labels-idx1-ubyte", 1),
}


def build(
    *,
    batch_size: int,
    seed: int,
    validation_fraction: float | None = None,
    shuffle: bool = True,
    path: str | None = None,
    examples: int | None = None,
    name: str = "fashion_mnist",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Images as float32 (height, width, 1) in [0, 1], labels int32, 10 classes.

    Args:
        validation_fraction: null takes the official test files for validation; a number draws
            that share of the training files instead and leaves the test files unused.
        path: folder with the four IDX files, as they are or with `.gz`; null looks in Debian's
            /usr/share/datasets/fashion-mnist (package dataset-fashion-mnist), then asks
            keras.datasets, which keeps a cache and downloads.

    Raises:
        ConfigurationError: a file is missing, empty, truncated or of another format.
    """
    if path is None and not DEBIAN_FOLDER.is_dir():
        return keras_datasets.build(
            source="fashion_mnist",
            batch_size=batch_size,
            seed=seed,
            validation_fraction=validation_fraction,
            shuffle=shuffle,
            examples=examples,
            name=name,
            on_error=on_error,
            stall_seconds=stall_seconds,
        )
    folder = Path(path).expanduser() if path is not None else DEBIAN_FOLDER
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder} is not a folder",
            where="dataset.path",
            remedy="give the folder of the four IDX files, or null",
        )
    part = {role: _read(_find(folder, stem), rank) for role, (stem, rank) in FILES.items()}
    return from_arrays(
        Examples(
            part["training images"][..., np.newaxis], part["training labels"], f"{folder}/train-*"
        ),
        Examples(part["test images"][..., np.newaxis], part["test labels"], f"{folder}/t10k-*"),
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=validation_fraction,
        shuffle=shuffle,
        classes=10,
        take=examples,
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _find(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigurationError(
        f"{folder} lacks {stem} and {stem}.gz",
        where="dataset.path",
        remedy="give a folder that holds " + ", ".join(stem for stem, _ in FILES.values()),
    )


def _read(file: Path, rank: int) -> np.ndarray:
    """The uint8 array of `rank` dimensions in `file`."""
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(file, f"is empty, truncated or no gzip file ({error})") from None
    except OSError as error:
        raise _broken(file, f"cannot be read ({error.strerror})") from None
    start = 4 + 4 * rank
    if not raw:
        raise _broken(file, "is empty")
    if raw[: min(4, len(raw))] != bytes([0, 0, UNSIGNED_BYTE, rank])[: len(raw)]:
        raise _broken(
            file, f"is no IDX file of bytes in {rank} dimensions: it begins with {raw[:4].hex()}"
        )
    if len(raw) < start:
        raise _broken(file, f"is truncated: {len(raw)} bytes, the header alone has {start}")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", rank, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        state = "truncated" if len(raw) < expected else "too long"
        raise _broken(
            file, f"is {state}: {len(raw)} bytes, its header of shape {shape} asks for {expected}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _broken(file: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{file.name} {what}", where=str(file), remedy="copy or download the file again"
    )
