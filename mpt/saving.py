"""Saving a trained model so that plain Keras, with no mpt installed, loads it."""

from pathlib import Path
from typing import Any

import keras

from mpt import optim, precision
from mpt.whole_file import PARTIAL


def save_plainly(model: keras.Model) -> None:
    """Have every `model.save` from now on, a callback's too, write what plain Keras loads.

    The file names Keras's own layers and optimizer only: fused normalization and the loss-scaling
    wrapper are taken off while it is written.
    """
    written = model.save

    def save(*args: Any, **kwargs: Any) -> Any:
        with precision.unfused(model), optim.unwrapped(model):
            return written(*args, **kwargs)

    model.save = save


def save(model: keras.Model, path: Path) -> None:
    """Write `model`, which `save_plainly` has seen, to a `.keras` file, whole or not at all."""
    partial = path.with_name(PARTIAL + path.name)
    try:
        model.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
