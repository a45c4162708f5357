"""Saving a trained model so that plain Keras, with no mpt installed, loads it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from mpt import optim, precision


def save(model: keras.Model, path: Path) -> None:
    """Write `model` to a `.keras` file, whole or not at all.

    The file names Keras's own layers and optimizer only: fused normalization and the loss-scaling
    wrapper are taken off while it is written.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        with precision.unfused(model), _plain_optimizer(model):
            model.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _plain_optimizer(model: keras.Model) -> Iterator[None]:
    """Put Keras's own optimizer, with the same variables, in the wrapper's place."""
    wrapped, compiled = model.optimizer, model._compile_config
    model.optimizer = optim.plain(wrapped)
    kept = compiled.config["optimizer"] if compiled else None
    if compiled:
        compiled.config["optimizer"] = model.optimizer
    try:
        yield
    finally:
        model.optimizer = wrapped
        if compiled:
            compiled.config["optimizer"] = kept
