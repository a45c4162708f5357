"""The datasets that Keras downloads and keeps in its cache: mnist, cifar10, cifar100."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import numpy as np

from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100}
CACHED = {
    "mnist": "mnist.npz",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10-batches-py-target_archive",
    "cifar100": "cifar-100-python-target_archive",
}
"""What Keras looks for in its cache, a file or folder, before it downloads."""


def build(
    *,
    source: str,
    batch_size: int,
    seed: int,
    validation_fraction: float | None = None,
    shuffle: bool = True,
    examples: int | None = None,
    name: str | None = None,
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Images as float32 (height, width, channels) in [0, 1], labels int32.

    Args:
        source: mnist, fashion_mnist, cifar10 or cifar100 (its 100 fine labels).
        batch_size: rows in a training batch.
        seed: of the order; the split, by class, is the same for every seed.
        validation_fraction: null takes the official test split for validation; a number draws that
            share of the training split instead and leaves the test split unused.
        shuffle: a new order for each epoch.
        examples: draw only so many of the training split, before the split for validation.
        name: of the dataset; null takes `source`.
        on_error: fail refuses broken rows; skip leaves them out and counts them.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: an unknown source, a download that failed, or as `mpt.data.checks` says.
    """
    if source not in CLASSES:
        raise ConfigurationError(
            f"Keras has no image dataset {source!r}",
            where="dataset.source",
            value=source,
            allowed=CLASSES,
        )
    (x, y), (x_test, y_test) = _load(source)
    return from_arrays(
        Examples(_with_channels(x), y, f"{source}, training split"),
        Examples(_with_channels(x_test), y_test, f"{source}, test split"),
        name=name or source,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=validation_fraction,
        shuffle=shuffle,
        classes=CLASSES[source],
        take=examples,
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images if images.ndim == 4 else images[..., np.newaxis]


def _load(source: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    import keras

    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cache = home / "datasets" / CACHED[source]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Keras tells of its download
            return getattr(keras.datasets, source).load_data()
    except Exception as error:  # Keras raises a bare Exception where the download fails
        raise ConfigurationError(
            f"{source} is not in Keras's cache and could not be downloaded: {error}",
            where=str(cache),
            remedy=f"copy a valid {CACHED[source]} to that path, set KERAS_HOME to a folder that "
            "has it, or take dataset=digits, which needs no network",
        ) from error
