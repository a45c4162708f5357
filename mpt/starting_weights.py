"""The weights that a model starts from, out of a file or the folder of another run."""

import zipfile
from pathlib import Path

import keras
import tensorflow as tf

from mpt import precision
from mpt.errors import ConfigurationError
from mpt.run_folder import MODEL
from mpt.variables import is_overwritten

LARGEST_DESCRIPTION = 2**26
"""Bytes of the layers' description in a .keras file; ResNet50's has 2**17."""


def load(model: keras.Model, path: Path) -> list[str]:
    """Start from the weights in a .keras or .weights.h5 file, or in a run's folder.

    Returns:
        What the user should know of it.

    Raises:
        ConfigurationError: there is no such file, or it is not of this model.
    """
    file = path / MODEL if path.is_dir() else path
    where = f"init_from={path}"
    if not file.is_file():
        raise ConfigurationError(f"There are no weights at {file}.", where=where)
    try:
        if file.suffix == ".keras":
            _check_archive(file)
            source = keras.saving.load_model(file, compile=False, safe_mode=True)
            return _take_weights(model, source)
        model.load_weights(file)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # a file of whatever origin can make Keras raise anything
        raise ConfigurationError(
            f"The weights do not fit the model: {(str(error) or repr(error)).splitlines()[0]}",
            where=where,
            remedy="name a file saved from a model of the same layers and shapes",
        ) from error
    return []


def _take_weights(model: keras.Model, source: keras.Model) -> list[str]:
    """Give `model` the weights of one whose products may be in float8 where its own are not.

    Scales of layers that the source has in no float8 stay as they are: that is what it says.
    """
    own, given = _weights(model), _weights(source)
    if [tuple(w.shape) for w in own] != [tuple(w.shape) for w in given]:
        raise ValueError(f"{len(given)} weights of other shapes than the model's {len(own)}")
    for weight, value in zip(own, given, strict=True):
        weight.assign(value)
    scales, others = _scales(model), _scales(source)
    for key in scales.keys() & others.keys():
        scales[key].assign(others[key])
    if new := {place for place, _ in scales.keys() - others.keys()}:
        return [f"{len(new)} layers were not trained in float8: their scales start at 1."]
    return []


def _weights(model: keras.Model) -> list[keras.Variable]:
    return [weight for weight in model.weights if not is_overwritten(weight)]


def _scales(model: keras.Model) -> dict[tuple[int, str], keras.Variable]:
    """float8's scales by the layer's place in the model, which a loaded one shares, and name."""
    return {
        (place, scale.name): scale
        for place, (_, layer) in enumerate(precision.walk(model))
        for scale in layer._trainable_variables
        if is_overwritten(scale)
    }


def _check_archive(file: Path) -> None:
    """Refuse a description of the layers that unpacks to more memory than one can need."""
    with zipfile.ZipFile(file) as archive:
        unpacked = archive.getinfo("config.json").file_size
    if unpacked > LARGEST_DESCRIPTION:
        raise ValueError(f"its config.json has {unpacked} bytes")
