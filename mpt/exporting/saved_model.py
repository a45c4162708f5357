"""A Keras model as a TensorFlow SavedModel."""

import contextlib
import io
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mpt import precision


def write(model: keras.Model, folder: Path) -> None:
    """Write `model` to `folder`, in the dtypes that it computes in."""
    with precision.unfused(model), contextlib.redirect_stdout(io.StringIO()):
        model.export(folder, verbose=False)


def outputs(folder: Path, x: Any) -> list[Any]:
    """What the model in `folder` gives for a batch."""
    loaded = tf.saved_model.load(str(folder))  # its variables last as long as it does
    return keras.tree.flatten(loaded.serve(x))
