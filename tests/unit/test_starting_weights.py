"""Weights from another run, whose products may be in float8 in other layers."""

import keras
import numpy as np
import pytest

from mpt.precision import build
from mpt.starting_weights import load

L = keras.layers
LAYERS = ("one", "two", "three")


@pytest.fixture(autouse=True)
def float32_policy():
    yield
    keras.config.set_dtype_policy("float32")


def network():
    x = inputs = keras.Input((8,))
    for name in LAYERS:
        x = L.Dense(8, name=name)(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


def made(*in_float8):
    rules = [{"match": name, "policy": "float8"} for name in in_float8]
    return build(network, policy="mixed_bfloat16", overrides=rules)


def scale(model, name):
    return float(np.asarray(model.get_layer(name).kernel_scale))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Trained with products of the layers one and two in float8."""
    model = made("one", "two")
    for number, name in enumerate(LAYERS[:2]):
        model.get_layer(name).kernel_scale.assign(5.0 + number)
    file = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(file)
    return file, np.asarray(model.get_layer("three").kernel)


@pytest.mark.parametrize(
    ("in_float8", "scales", "new"),
    [
        (("one", "two"), (5.0, 6.0), 0),
        (("two", "three"), (6.0, 1.0), 1),  # as many as were saved, in other layers
        (("two",), (6.0,), 0),
        (LAYERS, (5.0, 6.0, 1.0), 1),
        ((), (), 0),
    ],
)
def test_scales_go_to_the_layers_that_they_are_of(saved, in_float8, scales, new):
    file, kernel = saved
    model = made(*in_float8)
    said = load(model, file)
    np.testing.assert_array_equal(np.asarray(model.get_layer("three").kernel), kernel)
    assert tuple(scale(model, name) for name in in_float8) == scales
    assert len(said) == bool(new)
    assert all(text.startswith(f"{new} layers were not trained in float8") for text in said)
