"""`mpt export`: from a run's configuration to a file or folder that was checked."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt import errors, report
from mpt.console import Console
from mpt.data.errors import first_batch
from mpt.errors import ConfigurationError
from mpt.exporting import saved_model, tflite
from mpt.preparation import Prepared, prepare
from mpt.quiet import quiet
from mpt.report.numbers import size
from mpt.schema import FLOAT8, TrainConfig
from mpt.variables import parameters
from mpt.whole_file import PARTIAL

NAMES = {"saved_model": "saved_model", "tflite": "model_float16.tflite"}
"""Format -> what it is called in a run's folder."""

TOLERANCE = {
    "float16": 1e-2,
    "bfloat16": 5e-2,
    "float32": 1e-4,
    "float64": 1e-9,
    FLOAT8: 0.2,  # two neighbours in its E4M3 differ by up to an eighth
    "tflite": 1e-2,  # computes in float32, of weights that float16 rounds
}
"""Of the outputs' largest size, by what the model computes in: its kernels may be fused
otherwise, and round otherwise."""


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    to: str | None = None,
    form: str = "saved_model",
    as_json: bool = False,
) -> int:
    """Write the model with the weights at `config.init_from` in another format.

    Args:
        run_dir: folder of the run that trained them.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        allow: modules and files whose code the user admits.
        command, composed: have no use here.
        to: the folder or file to write, which must not exist; None: in `run_dir`.
        form: saved_model, or tflite, whose `config` has to be of a model in float32.
        as_json: print one JSON object on stdout, and nothing else there.

    Returns:
        0; 1 where what was written does not give what the Keras model gives: it is removed.

    Raises:
        ConfigurationError: the configuration or the input cannot be used, the format cannot do
            what the model does, or the target cannot be written.
    """
    target = _target(run_dir, to, form)
    console = Console(verbosity)
    # What a builder prints would come before the object.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        prepared = prepare(config, allow)
    for text in prepared.warnings:
        console.warning(text)
    x = first_batch(prepared.data)[0]
    differences = _exported(prepared, target, form, x, verbosity)
    if not differences["difference"] <= differences["allowed_difference"]:
        console.error(
            f"The exported model differs from the Keras model: by {differences['difference']:.3g} "
            f"in outputs of up to {differences['largest_output']:.3g}. It was not kept."
        )
        return errors.FAILED
    content = {
        "run": str(run_dir),
        "format": form,
        "path": str(target),
        "policy": prepared.choice.name,
        "examples": int(keras.tree.flatten(x)[0].shape[0]),
        **differences,
        "bytes": _bytes(target),
        "float32_weights_bytes": _float32_weights(prepared),
    }
    if as_json:
        print(json.dumps(report.encode(content), indent=2, allow_nan=False))
    else:
        _show(content)
    return errors.OK


def _target(run_dir: Path, to: str | None, form: str) -> Path:
    """What is to be written. ConfigurationError where it is there, or cannot be."""
    target = run_dir / NAMES[form] if to is None else Path(os.path.abspath(to))
    if os.path.lexists(target):
        raise ConfigurationError(
            f"{target} is there already", where="--to", remedy="remove it, or name another"
        )
    above = _above(target)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigurationError(
            f"{target} cannot be written: {above} is no folder that you may write to", where="--to"
        )
    return target


def _above(target: Path) -> Path:
    """The nearest of what `target` is to lie below that is there."""
    return next(path for path in target.parents if os.path.lexists(path))


def _exported(
    prepared: Prepared, target: Path, form: str, x: Any, verbosity: int
) -> dict[str, float]:
    """Write the model to `target`, and keep it there if its outputs for `x` are close enough.

    Returns:
        difference: from the Keras model's outputs; largest_output, of those; allowed_difference.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=_above(target)) as folder:
            aside = Path(folder) / target.name
            expected = prepared.model(x, training=False)
            given = _written(prepared.model, aside, form, x, expected, verbosity)
            difference, largest = _difference(expected, given)
            allowed = TOLERANCE[_rounding(prepared, form)] * largest
            if difference <= allowed:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(aside, target)
    except OSError as error:
        raise ConfigurationError(
            f"{target} cannot be written: {error.strerror or error}", where="--to"
        ) from error
    return {
        "difference": difference,
        "largest_output": largest,
        "allowed_difference": allowed,
    }


def _written(
    model: keras.Model, aside: Path, form: str, x: Any, expected: Any, verbosity: int
) -> list[Any]:
    """Write the model to `aside`; its outputs for `x` from there, in the order of `expected`."""
    if form == "saved_model":
        saved_model.write(model, aside)
        return saved_model.outputs(aside, x)
    with contextlib.nullcontext() if verbosity > 0 else quiet(kept=False):
        tflite.write(model, aside)
        return tflite.outputs(aside, x, model, expected)


def _rounding(prepared: Prepared, form: str) -> str:
    """What decides how far outputs may differ: a key of `TOLERANCE`."""
    if form == "tflite":
        return form
    return FLOAT8 if prepared.choice.float8 else prepared.compute_dtype


def _difference(expected: Any, given: list[Any]) -> tuple[float, float]:
    """How far the outputs lie from the Keras model's, and how large those are."""
    difference, largest = 0.0, 0.0
    for one, other in zip(keras.tree.flatten(expected), given, strict=True):
        a, b = (np.asarray(tf.cast(part, tf.float64)) for part in (one, other))
        difference = float(np.maximum(difference, np.max(np.abs(a - b), initial=0.0)))  # or NaN
        largest = max(largest, float(np.max(np.abs(a), initial=0.0)))
    return difference, largest


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files)


def _float32_weights(prepared: Prepared) -> int:
    """What the model's weights take in float32, bytes."""
    return 4 * parameters(prepared.model.weights)


def _show(content: dict[str, Any]) -> None:
    is_lite = content["format"] == "tflite"
    policy = "float32, of weights in float16" if is_lite else content["policy"]
    print(
        f"policy       {policy}\n"
        f"checked      the outputs of {content['examples']} examples differ by "
        f"{content['difference']:.3g} from the Keras model's, of up to "
        f"{content['largest_output']:.3g}"
    )
    if is_lite:
        file, weights = (size(content[key]) for key in ("bytes", "float32_weights_bytes"))
        print(f"size         {file}; the weights in float32 take {weights}")
    name = "tflite model" if is_lite else "saved model"
    print(f"{name}: {content['path']}")
