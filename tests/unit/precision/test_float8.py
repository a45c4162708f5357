"""float8: what is converted, what it computes, and that it trains as Keras's own layers do."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from mpt import optim
from mpt.errors import ConfigurationError
from mpt.loss_scale import LossScaleOptimizer
from mpt.precision import build, in_float8, notes, table, verify
from mpt.variables import is_overwritten, parameters

L = keras.layers
LENGTH, WIDTH = 4, 16


def network():
    inputs = keras.Input((LENGTH, WIDTH), name="x")
    x = L.MultiHeadAttention(2, 8, name="attention")(inputs, inputs)
    x = L.EinsumDense("abc,cd->abd", (None, WIDTH), name="einsum")(x)
    twice = L.Dense(WIDTH, name="twice")
    x = twice(twice(x))
    x = L.TimeDistributed(L.Dense(WIDTH, name="each"), name="places")(x)
    x = L.GRU(WIDTH, name="gru")(x)
    x = L.Dense(WIDTH, activation="relu", name="hidden")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


CONVERTED = {
    *(f"attention/{part}" for part in ("query", "key", "value", "attention_output")),
    *("einsum", "hidden"),
}


def batch(rows=8, shape=(LENGTH, WIDTH)):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, *shape)).astype("float32")
    return x, random.integers(0, 3, rows)


def made(builder=network, shape=(LENGTH, WIDTH), **settings):
    keras.utils.set_random_seed(0)
    settings = {"policy": "mixed_bfloat16", "in_float8": True, **settings}
    model = build(builder, **settings)
    verify(model, batch(shape=shape))
    return model


def dense(shape=(WIDTH,)):
    inputs = keras.Input(shape)
    x = L.Dense(8, activation="tanh", name="one")(inputs)
    x = L.Dense(8, name="two")(x)
    return keras.Model(inputs, L.Dense(3, name="head")(x))


def test_dense_and_einsum_dense_are_converted_attentions_inner_ones_too():
    model = made()
    assert set(in_float8(model)) == CONVERTED
    rows = {row["path"]: row for row in table(model)}
    assert {path for path, row in rows.items() if row.get("quantization") == "float8"} == CONVERTED
    for path in CONVERTED:
        row = rows[path]
        assert (row["variable_dtype"], row["compute_dtype"]) == ("float32", "bfloat16")
        assert row["source"] == "global"
    assert rows["head"]["compute_dtype"] == "float32"
    # One pass calls it twice, so its scales would come as the sum of two.
    assert [note for note in notes(model) if "stay out of float8, twice first" in note]


def test_keras_adds_up_the_scales_of_a_layer_that_is_called_twice():
    """Why such a layer is left alone."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = L.Dense(4)
    layer.build((None, 4))
    layer.quantize("float8")

    @tf.function
    def next_scale(x):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(layer(x, training=True), training=True))
        return tape.gradient(y, layer.inputs_scale.value)

    assert float(next_scale(tf.ones((2, 4)))) == 2.0  # each call says 1


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
def test_a_rule_takes_single_layers_to_float8_under_any_policy(policy):
    rules = [{"match": "attention", "policy": "float8"}]
    model = made(policy=policy, in_float8=False, overrides=rules)
    assert set(in_float8(model)) == {path for path in CONVERTED if "attention" in path}
    rows = {row["path"]: row for row in table(model)}
    assert rows["attention"]["compute_dtype"] == "bfloat16"
    assert rows["einsum"]["compute_dtype"] == policy.removeprefix("mixed_")


def test_a_rule_keeps_layers_out_and_the_last_one_wins():
    out = {"match": "attention", "policy": "mixed_bfloat16"}
    back = {"match": "*/query", "policy": "float8"}
    kept = {path for path in CONVERTED if "attention" not in path}
    assert set(in_float8(made(overrides=[out]))) == kept
    assert set(in_float8(made(overrides=[out, back]))) == {*kept, "attention/query"}
    assert set(in_float8(made(overrides=[back, out]))) == kept


def convolutions():
    inputs = keras.Input((LENGTH, WIDTH))
    x = L.GlobalAveragePooling1D()(L.Conv1D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, L.Dense(3)(x))


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({}, "precision.policy"),
        (
            {"in_float8": False, "overrides": [{"match": "conv", "policy": "float8"}]},
            "precision.overrides[0].policy",
        ),
    ],
)
def test_float8_without_a_layer_for_it_is_refused(settings, where):
    with pytest.raises(ConfigurationError, match="float8") as refused:
        made(convolutions, **settings)
    assert refused.value.where == where


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.attention = L.Dense(WIDTH), L.MultiHeadAttention(2, 8)
        self.pool, self.out = L.GlobalAveragePooling1D(), L.Dense(3)

    def call(self, x):
        x = self.first(x)
        return self.out(self.pool(self.attention(x, x)))


def test_a_subclassed_model_is_converted_once_it_is_built():
    model = made(Subclassed)
    classes = [type(layer).__name__ for layer in model._flatten_layers()]
    assert len(in_float8(model)) == 5 == classes.count("Dense") + classes.count("EinsumDense") - 1
    assert "out" not in {path.split("/")[-1] for path in in_float8(model)}
    verify(model, batch())  # again
    assert len(in_float8(model)) == 5


def test_products_are_those_of_rounded_numbers():
    """Against ml_dtypes' own rounding: inputs and kernel over their scales, to E4M3 and back."""
    model = made(dense, (WIDTH,))
    layer = model.get_layer("one")
    layer.inputs_scale.assign(0.03)
    layer.kernel_scale.assign(0.002)
    x = (batch(64, (WIDTH,))[0] * 3).astype("float32")

    def rounded(values, scale):
        narrow = values.astype(ml_dtypes.bfloat16) / np.asarray(scale, ml_dtypes.bfloat16)
        largest = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
        cut = np.clip(narrow.astype("float32"), -largest, largest)
        return cut.astype(ml_dtypes.float8_e4m3fn).astype("float32") * np.float32(
            np.asarray(scale, ml_dtypes.bfloat16)
        )

    kernel, bias = (np.asarray(v) for v in (layer.kernel, layer.bias))
    expected = np.tanh(rounded(x, 0.03) @ rounded(kernel, 0.002) + bias)
    found = np.asarray(tf.cast(layer(x), tf.float32))
    np.testing.assert_allclose(found, expected, atol=0.02)
    plain = np.tanh(x @ kernel + bias)
    assert np.abs(found - plain).max() > 3 * np.abs(found - expected).max()  # it is no bfloat16


def train(model, inner, steps, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(inner, loss, auto_scale_loss=False)
    return [float(model.train_on_batch(x, y)) for _ in range(steps)]


def test_it_trains_as_keras_does_with_layers_quantized_by_hand():
    x, y = batch(16, (WIDTH,))
    model = made(dense, (WIDTH,))
    inner = optim.build(name="sgd", learning_rate=0.1, total_steps=20)
    optimizer = LossScaleOptimizer(inner, mode="none")
    optimizer.build(model.trainable_variables)
    losses = train(model, optimizer, 12, x, y)

    keras.config.set_dtype_policy("mixed_bfloat16")
    twin = dense()
    twin.get_layer("head").dtype_policy = "float32"
    twin.set_weights(made(dense, (WIDTH,), in_float8=False).get_weights())
    for name in ("one", "two"):
        twin.get_layer(name).quantize("float8")
    expected = train(twin, keras.optimizers.SGD(0.1), 12, x, y)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    scales = [v for v in model.trainable_variables if is_overwritten(v)]
    assert len(scales) == 12
    for own, theirs in zip(model.trainable_variables, twin.trainable_variables, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-6)
    assert all(float(tf.reduce_max(scale)) != 1.0 for scale in scales)  # they follow the numbers
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("settings", [{"ema": True}, {"gradient_accumulation_steps": 2}])
def test_averages_and_accumulation(settings):
    x, y = batch(16, (WIDTH,))
    model = made(dense, (WIDTH,))
    inner = optim.build(name="adam", learning_rate=0.01, total_steps=20, **settings)
    optimizer = LossScaleOptimizer(inner, mode="none")
    optimizer.build(model.trainable_variables)
    losses = train(model, optimizer, 10, x, y)
    assert losses[-1] < losses[0]
    scale = model.get_layer("two").inputs_scale
    before, weights = float(scale), [np.asarray(w) for w in model.get_layer("two").weights[:1]]
    with optim.averaged(model):
        assert float(scale) == before
        changed = not np.array_equal(model.get_layer("two").kernel, weights[0])
        assert changed == ("ema" in settings)
    inner.finalize_variable_values(model.trainable_variables)
    assert float(scale) == before


def test_a_step_that_overflows_leaves_the_scales():
    x, y = batch(16, (WIDTH,))
    model = made(dense, (WIDTH,))
    optimizer = LossScaleOptimizer(
        optim.build(name="sgd", learning_rate=0.01, total_steps=20), mode="none"
    )
    optimizer.build(model.trainable_variables)
    train(model, optimizer, 3, x, y)
    before = [np.asarray(v) for v in model.trainable_variables]
    x[3, 2] = np.nan
    model.train_on_batch(x, y)
    assert not bool(optimizer.finite.value)
    for value, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, variable)


def test_a_saved_model_is_whole_for_keras_itself(tmp_path):
    model = made()
    for variable in model.trainable_variables:
        if is_overwritten(variable):
            variable.assign(tf.ones_like(variable) * 0.25)
    x, _ = batch()
    expected = np.asarray(model(x))
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert set(in_float8(loaded)) == CONVERTED
    np.testing.assert_array_equal(np.asarray(loaded(x)), expected)


def test_scales_are_no_parameters():
    plain = made(in_float8=False)
    assert parameters(made().weights) == plain.count_params() < made().count_params()
