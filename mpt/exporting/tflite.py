"""A Keras model as a TFLite file, with its weights in float16.

The file computes in float32: its interpreter widens the weights when it loads them, and a GPU's
delegate may compute in float16. So it is a float32 model that has to be given.
"""

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.exporting import saved_model

SIGNATURE = "serving_default"
_MISSING = re.compile(r"^(?:TF Select|Custom) ops: (.+)$", re.MULTILINE)


def write(model: keras.Model, file: Path) -> None:
    """Convert `model`, and write it to `file`.

    Raises:
        ConfigurationError: TFLite cannot do what the model does.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, Path(folder) / "model")
        converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(folder) / "model"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        try:
            content = converter.convert()
        except Exception as error:  # the converter raises ValueError, RuntimeError and its own
            raise _refused(error) from error
    file.write_bytes(content)


def outputs(file: Path, x: Any, model: keras.Model, expected: Any) -> list[Any]:
    """What the model in `file` gives for a batch, in the order of `expected`, what `model` gives.

    Raises:
        ConfigurationError: the interpreter lacks an operation.
    """
    with warnings.catch_warnings():
        # The interpreter, which TensorFlow 2.21 has yet, tells where it is to be found later.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")
        interpreter = tf.lite.Interpreter(model_path=str(file))
    try:
        runner = interpreter.get_signature_runner(SIGNATURE)
        found = runner(**_inputs(runner, x, model))
    except (RuntimeError, ValueError) as error:
        raise _refused(error) from error
    if isinstance(expected, dict):
        return [found[name] for name in sorted(expected)]
    return [found[f"output_{number}"] for number in range(len(found))]


def _inputs(runner: Any, x: Any, model: keras.Model) -> dict[str, Any]:
    """The parts of a batch by the names of the signature's inputs."""
    if isinstance(x, dict):
        return dict(x)
    names = list(runner.get_input_details())
    if len(names) > 1:
        names = [tensor.name for tensor in getattr(model, "inputs", None) or ()] or names
    return dict(zip(names, keras.tree.flatten(x), strict=True))


def _refused(error: Exception) -> ConfigurationError:
    text = str(error).strip() or type(error).__name__
    if missing := _MISSING.findall(text):
        what = f"TFLite has no operations for these of the model's: {', '.join(missing)}"
    else:
        what = f"TFLite cannot run the model: {text.splitlines()[0][:200]}"
    return ConfigurationError(
        what,
        where="--format tflite",
        remedy="export a SavedModel, or build the model of operations that TFLite has",
    )
