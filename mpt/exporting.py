"""A trained model as a SavedModel, held against the Keras model it was made of."""

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt import errors, precision
from mpt.console import Console
from mpt.data.errors import first_batch
from mpt.errors import ConfigurationError
from mpt.preparation import prepare
from mpt.run_folder import PARTIAL
from mpt.schema import FLOAT8, TrainConfig

TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-9, FLOAT8: 0.2}
"""Of the outputs' largest size, by the dtype that the model computes in: its kernels may be fused
otherwise, and round otherwise. Two neighbours in float8's E4M3 differ by up to an eighth."""


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    to: str | None = None,
) -> int:
    """Write the model with the weights at `config.init_from` as a SavedModel.

    Args:
        run_dir: folder of the run that trained them.
        command: the command line.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        composed: has no use here.
        to: the folder to write, which must not exist; None: `saved_model` in `run_dir`.

    Returns:
        0; 1 where what was written does not give what the Keras model gives: it is removed.

    Raises:
        ConfigurationError: the configuration or the input cannot be used, or the folder cannot be
            written.
    """
    target = run_dir / "saved_model" if to is None else Path(os.path.abspath(to))
    if os.path.lexists(target):
        raise ConfigurationError(
            f"{target} is there already", where="--to", remedy="remove it, or name another folder"
        )
    console = Console(verbosity)
    prepared = prepare(config, allow)
    for text in prepared.warnings:
        console.warning(text)
    x = first_batch(prepared.data)[0]
    model = prepared.model
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=target.parent) as folder:
            aside = Path(folder) / target.name
            with precision.unfused(model), contextlib.redirect_stdout(io.StringIO()):
                model.export(aside, verbose=False)
            difference, size = _difference(model, aside, x)
            dtype = FLOAT8 if prepared.choice.float8 else prepared.compute_dtype
            allowed = TOLERANCE[dtype] * size
            if not difference <= allowed:
                console.error(
                    f"The exported model differs from the Keras model: by {difference:.3g} in "
                    f"outputs of up to {size:.3g}. It was not kept."
                )
                return errors.FAILED
            shutil.move(aside, target)
    except OSError as error:
        raise ConfigurationError(
            f"{target} cannot be written: {error.strerror or error}", where="--to"
        ) from error
    rows = keras.tree.flatten(x)[0].shape[0]
    print(
        f"policy       {prepared.choice.name}\n"
        f"checked      the outputs of {rows} examples differ by {difference:.3g} from the Keras "
        f"model's, of up to {size:.3g}\n"
        f"saved model: {target}"
    )
    return errors.OK


def _difference(model: keras.Model, folder: Path, x: Any) -> tuple[float, float]:
    """How far the outputs of the SavedModel lie from the Keras model's, and how large those are."""
    loaded = tf.saved_model.load(str(folder))
    expected = keras.tree.flatten(model(x, training=False))
    given = keras.tree.flatten(loaded.serve(x))
    largest, size = 0.0, 0.0
    for one, other in zip(expected, given, strict=True):
        a, b = (np.asarray(tf.cast(part, tf.float64)) for part in (one, other))
        largest = max(largest, float(np.max(np.abs(a - b), initial=0.0)))
        size = max(size, float(np.max(np.abs(a), initial=0.0)))
    return largest, size
