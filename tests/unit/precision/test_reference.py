"""The same variables computed with in another dtype, held against a model built in that dtype."""

import keras
import numpy as np
import pytest

from mpt import precision

LAYERS = keras.layers


def normalized():
    layer = LAYERS.Normalization(mean=1e5, variance=4.0)
    inner = keras.Sequential([LAYERS.Dense(6, activation="relu"), LAYERS.Dense(6)], name="inner")
    inputs = keras.Input((5, 4))
    x = layer(inputs)
    x = inner(x)
    x = LAYERS.MultiHeadAttention(2, 3)(x, x)
    x = LAYERS.GRU(4)(x)
    return keras.Model(inputs, LAYERS.Dense(3)(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = LAYERS.Dense(6, activation="gelu")
        self.rest = keras.Sequential([LAYERS.Dense(6), LAYERS.LayerNormalization()])
        self.head = LAYERS.Dense(3)

    def call(self, inputs):
        return self.head(self.rest(self.first(inputs)))


def inputs_of(builder):
    shape = (2, 5, 4) if builder is normalized else (2, 4)
    offset = 1e5 if builder is normalized else 0.0
    return np.random.default_rng(0).normal(offset, 2.0, shape).astype("float32")


@pytest.mark.parametrize("builder", [normalized, Subclassed])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_it_equals_a_model_that_was_built_so(builder, dtype, policy):
    x = inputs_of(builder)
    model = precision.build(builder, policy=policy)
    half = np.asarray(model(x)).astype("float64")
    keras.config.set_dtype_policy(dtype)
    twin = builder()
    twin(x)
    twin.set_weights(model.get_weights())
    expected = np.asarray(twin(x))
    keras.config.set_dtype_policy(policy)
    with precision.computing_in(model, dtype):
        found = model(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found, expected, rtol=2e-5 if dtype == "float32" else 1e-5, atol=1e-6
    )
    # It was another computation, and it is undone.
    after = np.asarray(model(x)).astype("float64")
    np.testing.assert_array_equal(half, after)


def test_variables_stay_the_same_objects_in_the_same_dtype():
    model = precision.build(Subclassed, policy="float16")
    x = inputs_of(Subclassed)
    model(x)
    before = [(id(v._value), v.dtype) for v in model.variables]
    with precision.computing_in(model, "float32"):
        assert model(x).dtype == "float32"
        assert [(id(v._value), v.dtype) for v in model.variables] == before
    assert [(id(v._value), v.dtype) for v in model.variables] == before
    assert {
        row["compute_dtype"] for row in precision.table(model) if row["source"] == "global"
    } == {"float16"}


def test_policies_are_put_back_after_an_error():
    model = precision.build(Subclassed, policy="mixed_float16")
    model(inputs_of(Subclassed))
    before = precision.table(model)
    with pytest.raises(RuntimeError), precision.computing_in(model, "float32"):
        raise RuntimeError
    assert precision.table(model) == before


def test_only_the_layers_that_are_named_compute_in_it():
    model = precision.build(Subclassed, policy="mixed_float16")
    model(inputs_of(Subclassed))
    before = {path: layer.compute_dtype for path, layer in precision.walk(model)}
    (path,) = (path for path, layer in precision.walk(model) if layer is model.first)
    with precision.computing_in(model, "float64", [path]):
        during = {path: layer.compute_dtype for path, layer in precision.walk(model)}
    assert during == before | {path: "float64"}
    assert {path: layer.compute_dtype for path, layer in precision.walk(model)} == before
