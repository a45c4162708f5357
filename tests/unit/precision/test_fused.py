"""The fused kernel equals Keras's BatchNormalization, and steps aside where it does not fit."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.precision import build, fuse, table, unfuse, unfused
from mpt.precision.fused import FusedBatchNormalization

L = keras.layers
X = np.random.default_rng(0).normal(3.0, 2.0, size=(8, 6, 5, 4)).astype("float32")


def pair(policy="float32", shape=(None, None, 4), **arguments):
    """The same one-layer model twice, the second fused."""
    keras.config.set_dtype_policy(policy)
    models = [
        keras.Sequential([keras.Input(shape), L.BatchNormalization(**arguments)]) for _ in range(2)
    ]
    rng = np.random.default_rng(1)
    values = [rng.uniform(0.5, 1.5, w.shape) for w in models[0].weights]
    for model in models:
        model.set_weights(values)
    return models[0], models[1], fuse(models[1])


def step(model, x):
    """Outputs, gradients of input and weights, and moving statistics of a training step."""
    x = tf.cast(x, model.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        weight = tf.cast(tf.reshape(tf.range(tf.size(y)) % 7, tf.shape(y)), y.dtype)
        loss = tf.reduce_sum(tf.cast(y * weight, "float32") ** 2) / 1e4
    gradients = tape.gradient(loss, [x, *[v.value for v in model.trainable_variables]])
    numbers = [y, *gradients, *model.layers[0].non_trainable_variables]
    return [np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(n, "float32"))) for n in numbers]


def called_fused(model, x):
    function = tf.function(lambda x: model(x, training=True), autograph=False)
    graph = function.get_concrete_function(tf.constant(x)).graph
    return any(op.type == "FusedBatchNormV3" for op in graph.get_operations())


@pytest.mark.parametrize(
    "arguments", [{}, {"scale": False}, {"center": False}, {"momentum": 0.5, "epsilon": 1e-2}]
)
def test_float32_equals_the_stock_layer(arguments):
    stock, fused, paths = pair(**arguments)
    assert len(paths) == 1
    assert called_fused(fused, X)
    for a, b in zip(step(stock, X), step(fused, X), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6 * max(1.0, np.abs(a).max()))


def test_the_moving_variance_is_the_biased_one():
    stock, fused, _ = pair()
    step(stock, X[:1, :1, :3])  # three numbers a channel: Bessel's correction would add half
    step(fused, X[:1, :1, :3])
    np.testing.assert_allclose(fused.layers[0].moving_variance, stock.layers[0].moving_variance,
                               rtol=5e-7)  # fmt: skip
    step(stock, X[:1, :1, :1])
    step(fused, X[:1, :1, :1])
    np.testing.assert_allclose(fused.layers[0].moving_variance, stock.layers[0].moving_variance,
                               rtol=5e-7)  # fmt: skip


@pytest.mark.parametrize(("policy", "bound"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 1.6e-2)])
def test_half_types_equal_the_stock_layer_to_their_rounding(policy, bound):
    stock, fused, _ = pair(policy)
    assert called_fused(fused, X)
    a, b = step(stock, X), step(fused, X)
    assert fused(X, training=True).dtype.name == policy.removeprefix("mixed_")
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(two, one, rtol=bound, atol=bound * np.abs(one).max())
    for one, two in zip(a[-2:], b[-2:], strict=True):  # statistics are float32 in both
        np.testing.assert_allclose(two, one, rtol=2e-6)


def test_predictions_are_equal_to_the_bit():
    for policy in ("float32", "mixed_bfloat16"):
        stock, fused, _ = pair(policy)
        np.testing.assert_array_equal(fused(X, training=False), stock(X, training=False))
        fused.layers[0].trainable = stock.layers[0].trainable = False
        np.testing.assert_array_equal(fused(X, training=True), stock(X, training=True))
        assert not called_fused(fused, X)


@pytest.mark.parametrize(
    ("arguments", "shape", "policy"),
    [
        ({"renorm": True}, (6, 5, 4), "float32"),
        ({"synchronized": True}, (6, 5, 4), "float32"),
        ({"axis": 1}, (4, 6, 5), "float32"),
        ({"axis": 2}, (6, 4, 5), "float32"),
        ({"epsilon": 1e-6}, (6, 5, 4), "float32"),
        ({}, (6, 5, 4), "float64"),
        ({}, (4,), "float32"),
        ({}, (7, 4), "float32"),
        ({}, (3, 6, 5, 4), "float32"),
    ],
)
def test_where_it_does_not_fit_the_layer_stays_as_it_is(arguments, shape, policy):
    stock, fused, paths = pair(policy, shape, **arguments)
    assert paths == []
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    assert type(fused.layers[0]) is L.BatchNormalization
    np.testing.assert_array_equal(fused(x, training=True), stock(x, training=True))


@pytest.mark.parametrize("shape", [(2, 4), (2, 7, 4), (2, 3, 6, 5, 4)])
def test_a_layer_fused_before_it_knew_its_rank_falls_back(shape):
    layers = [L.BatchNormalization(), L.BatchNormalization()]
    models = [keras.Sequential([layer]) for layer in layers]
    fuse(models[1])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_array_equal(models[1](x, training=True), models[0](x, training=True))


def test_masked_inputs_go_the_stock_way():
    stock, fused, _ = pair()
    mask = np.random.default_rng(0).random((8, 6, 5)) > 0.5
    a = stock.layers[0](X, training=True, mask=tf.constant(mask))
    b = fused.layers[0](X, training=True, mask=tf.constant(mask))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, stock.layers[0](X, training=True))


def test_pure_half_weights():
    stock, fused, _ = pair("bfloat16")
    assert called_fused(fused, X)
    for a, b in zip(step(stock, X), step(fused, X), strict=True):
        np.testing.assert_allclose(b, a, rtol=1.6e-2, atol=1.6e-2 * np.abs(a).max())


def test_a_subclass_is_left_alone_and_nested_and_wrapped_layers_are_reached():
    class Own(L.BatchNormalization):
        pass

    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.norm = L.BatchNormalization(name="norm")

        def call(self, inputs):
            return self.norm(inputs)

    def builder():
        inner = keras.Sequential(
            [keras.Input((6, 5, 4)), L.BatchNormalization(name="norm")], name="inner"
        )
        inputs = keras.Input((6, 5, 4))
        x = Own(name="own")(Block(name="block")(inner(inputs)))
        return keras.Model(inputs, L.Dense(2)(x))

    model = build(builder, policy="mixed_bfloat16")
    assert fuse(model) == ["inner/norm", "block/norm"]
    assert fuse(model) == ["inner/norm", "block/norm"]
    assert "FusedBatchNormalization" not in {row["class"] for row in table(model)}
    unfuse(model)
    assert not any(isinstance(layer, FusedBatchNormalization) for layer in model._flatten_layers())


def test_training_equals_training_with_the_stock_layer():
    def train(fused):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [keras.Input((6, 5, 4)), L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(),
             L.ReLU(), L.Flatten(), L.Dense(3)]
        )  # fmt: skip
        if fused:
            assert fuse(model)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        y = np.arange(8) % 3
        losses = [float(model.train_on_batch(X, y)) for _ in range(10)]
        return losses, model.get_weights()

    (stock_losses, stock), (fused_losses, fused) = train(False), train(True)
    np.testing.assert_allclose(fused_losses, stock_losses, rtol=1e-5)
    for a, b in zip(stock, fused, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def _classes(path):
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    return {(layer["module"], layer["class_name"]) for layer in config["config"]["layers"]}


@pytest.mark.parametrize("careful", [True, False], ids=["unfused", "ModelCheckpoint"])
def test_the_file_holds_plain_layers(tmp_path, careful):
    _, fused, _ = pair()
    path = tmp_path / "model.keras"
    if careful:
        with unfused(fused) as plain:
            assert type(plain.layers[0]) is L.BatchNormalization
            plain.save(path)
    else:
        fused.save(path)
    assert type(fused.layers[0]) is FusedBatchNormalization
    assert ("keras.layers", "BatchNormalization") in _classes(path)
    loaded = keras.models.load_model(path)
    assert type(loaded.layers[0]) is L.BatchNormalization
    np.testing.assert_array_equal(loaded(X), fused(X))


def test_unfused_restores_after_an_error():
    _, fused, _ = pair()

    def fail():
        with unfused(fused):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert type(fused.layers[0]) is FusedBatchNormalization
