"""The handwritten digits of scikit-learn: 1,797 real scans of 8x8 pixels, 10 classes, no network.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998; the copy in
scikit-learn is that dataset's test part.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from mpt.data import checks
from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.data.split import draw
from mpt.errors import ConfigurationError

# Of the 1,797 scans' pixels, which are whole numbers from 0 to 16.
MEAN, DEVIATION = 4.884, 6.017


def build(
    *,
    batch_size: int,
    seed: int,
    validation_fraction: float = 0.2,
    shuffle: bool = True,
    examples: int | None = None,
    name: str = "digits",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Digits as float32 (8, 8, 1), pixels of mean 0 and variance 1, labels int32.

    Args:
        batch_size: rows in a training batch.
        seed: of the order; the split is the same for every seed.
        validation_fraction: share of the scans for validation, every fifth by default; there is no
            official test split.
        shuffle: a new order for each epoch.
        examples: draw only so many of the 1,797, before the split.
        name: of the dataset.
        on_error: fail refuses broken rows; skip leaves them out and counts them.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: scikit-learn is absent, or as `mpt.data.checks` says.
    """
    x, y = load()
    rows = draw(y, np.arange(len(y)), examples)
    held_out = evenly(len(rows), checks.fraction(validation_fraction))
    train, rest = rows[~held_out], rows[held_out]
    return from_arrays(
        Examples(x[train], y[train], name),
        Examples(x[rest], y[rest], name) if len(rest) else None,
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=None,
        shuffle=shuffle,
        classes=10,
        held_out_name=f"{len(rest)} scans, evenly spaced",
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def evenly(count: int, fraction: float) -> np.ndarray:
    """Bool (count,): a `fraction` of the positions, evenly spaced.

    The scans lie in the order of their writers, so that every writer is in both parts.
    """
    marks = np.floor(np.arange(count + 1) * fraction + 1e-9)
    return np.diff(marks) > 0


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (1797, 8, 8, 1) of mean 0 and variance 1, and labels int32 (1797,)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigurationError(
            "the digits come with scikit-learn, which is not installed",
            where="dataset",
            remedy="pip install scikit-learn, or take another dataset",
        )
    # The file that load_digits reads; to import scikit-learn for it takes over a second.
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        rows = np.loadtxt(table, delimiter=",", dtype=np.float32)
        pixels, labels = rows[:, :-1], rows[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    images = (pixels.astype(np.float32) - np.float32(MEAN)) / np.float32(DEVIATION)
    return images.reshape(-1, 8, 8, 1), labels.astype(np.int32)
