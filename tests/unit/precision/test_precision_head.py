"""The layers that make the outputs compute wholly in float32, whatever the shape of the model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.precision import build, notes, table, verify

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")


def heads(model):
    return {row["path"] for row in table(model) if row["source"] == "head"}


def functional(*layers, shape=(6,)):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: [L.Dense(8), L.Dense(3, name="d", activation="softmax")], {"d"}),
        (lambda: [L.Dense(8), L.Dense(3, name="d"), L.Softmax(name="s")], {"d", "s"}),
        (lambda: [L.Dense(8), L.Dense(3, name="d"), L.Activation("softmax", name="a")], {"d", "a"}),
        (
            lambda: [L.Dense(4, name="d"), L.Reshape((2, 2), name="r"), L.Softmax(name="s")],
            {"d", "r", "s"},
        ),
        (lambda: [L.Dense(3, name="d"), L.Dropout(0.5, name="o"), L.Softmax(name="s")],
         {"d", "o", "s"}),
    ],
)  # fmt: skip
def test_the_walk_goes_back_to_the_weights(make, expected):
    for wrap in (functional, lambda *layers: keras.Sequential([keras.Input((6,)), *layers])):
        model = build(lambda wrap=wrap: wrap(*make()), policy="mixed_bfloat16")
        assert heads(model) == expected
        assert model.outputs[0].dtype == "float32"
        assert model(X).dtype == tf.float32
        verify(model, (X, np.zeros(4)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_head_is_equal_to_the_bit_to_one_built_in_float32(policy):
    def builder(dtype=None):
        keras.utils.set_random_seed(3)
        return functional(
            L.Dense(8, activation="relu"), L.Dense(3, dtype=dtype), L.Softmax(dtype=dtype)
        )

    headed = build(builder, policy=policy)
    built = build(lambda: builder("float32"), policy=policy)
    stock = build(builder, policy=policy, head="policy")
    np.testing.assert_array_equal(headed(X), built(X))
    assert not np.array_equal(headed(X), keras.ops.cast(stock(X), "float32"))


def test_logits_of_a_float32_head_do_not_overflow():
    def builder():
        return functional(L.Dense(2, kernel_initializer="ones", use_bias=False), shape=(2,))

    x = np.full((1, 2), 5e4, "float32")
    np.testing.assert_array_equal(build(builder, policy="mixed_float16")(x), [[1e5, 1e5]])
    half = build(builder, policy="mixed_float16", head="policy")
    assert np.isinf(half(x)).all()


def test_several_outputs_and_a_shared_trunk():
    def builder():
        inputs = keras.Input((6,))
        trunk = L.Dense(8, name="trunk")(inputs)
        one = L.Softmax(name="probabilities")(L.Dense(3, name="logits")(trunk))
        two = L.Dense(1, name="value")(trunk)
        return keras.Model(inputs, {"class": one, "value": two})

    model = build(builder, policy="mixed_float16")
    assert heads(model) == {"logits", "probabilities", "value"}
    assert {name: y.dtype for name, y in model(X).items()} == {
        "class": tf.float32,
        "value": tf.float32,
    }


def test_a_nested_model_that_makes_the_output():
    def builder():
        inner = functional(L.Dense(8, name="low"), L.Dense(3, name="top"), L.Softmax(name="soft"))
        inner.name = "inner"
        inputs = keras.Input((6,))
        return keras.Model(inputs, inner(L.Dense(6, name="first")(inputs)))

    model = build(builder, policy="mixed_float16")
    assert heads(model) == {"inner/top", "inner/soft"}
    assert model.outputs[0].dtype == "float32"


def test_merged_branches_are_all_taken_and_a_residual_chain_is_not():
    def merged():
        inputs = keras.Input((6,))
        a, b = L.Dense(3, name="a")(inputs), L.Dense(3, name="b")(inputs)
        return keras.Model(inputs, L.Softmax(name="soft")(L.Add(name="add")([a, b])))

    assert heads(build(merged, policy="mixed_float16")) == {"a", "b", "add", "soft"}

    def residual():
        inputs = x = keras.Input((6,))
        for i in range(4):
            x = L.Add(name=f"add{i}")([x, L.Dense(6, name=f"dense{i}")(x)])
        return keras.Model(inputs, x)

    assert heads(build(residual, policy="mixed_float16")) == {"add3", "dense3"}


def test_a_convolutional_head_and_global_pooling():
    def builder():
        return functional(
            L.Conv2D(4, 3, name="features"),
            L.Conv2D(3, 1, name="logits"),
            L.GlobalAveragePooling2D(name="pool"),
            L.Softmax(name="soft"),
            shape=(8, 8, 3),
        )

    assert heads(build(builder, policy="mixed_bfloat16")) == {"logits", "pool", "soft"}


def test_a_recurrent_head_takes_its_cell_along():
    model = build(lambda: functional(L.LSTM(3, name="lstm"), shape=(5, 2)), policy="mixed_float16")
    assert {path.rstrip("_0123456789") for path in heads(model)} == {"lstm", "lstm/lstm_cell"}
    verify(model, (np.zeros((2, 5, 2), "float32"), np.zeros(2)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_attention_as_head_is_taken_whole_and_so_survives_saving(policy, tmp_path):
    def builder():
        inputs = keras.Input((5, 4))
        x = L.Dense(4, name="low")(inputs)
        return keras.Model(inputs, L.MultiHeadAttention(2, 4, name="attention")(x, x))

    model = build(builder, policy=policy)
    verify(model, (np.zeros((2, 5, 4), "float32"), np.zeros(2)))
    assert {"attention", "attention/query", "attention/attention_output"} <= heads(model)
    assert "low" not in heads(model)
    model.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_a_bidirectional_head_takes_both_directions():
    model = build(
        lambda: functional(L.Bidirectional(L.GRU(3), name="both"), shape=(5, 2)),
        policy="mixed_float16",
    )
    verify(model, (np.zeros((2, 5, 2), "float32"), np.zeros(2)))
    assert model(np.zeros((2, 5, 2), "float32")).dtype == tf.float32
    assert len(heads(model)) >= 5  # the wrapper, and a layer and a cell each way


class Subclassed(keras.Model):
    """A head by a raw operation, which no policy covers, over a layer that one does."""

    def __init__(self):
        super().__init__()
        self.body = L.Dense(8, name="body")
        self.logits = L.Dense(3, name="logits")

    def call(self, inputs):
        return tf.nn.softmax(self.logits(self.body(inputs)))


def test_a_subclassed_model_gets_its_head_by_the_dry_run():
    model = build(Subclassed, policy="mixed_float16")
    verify(model, (X, np.zeros(4)))
    assert heads(model) == {"logits"}
    assert model(X).dtype == tf.float32


def test_a_sequential_model_without_an_input_shape():
    model = build(
        lambda: keras.Sequential([L.Dense(8), L.Dense(3, name="d"), L.Softmax(name="s")]),
        policy="mixed_float16",
    )
    verify(model, (X, np.zeros(4)))
    assert heads(model) == {"d", "s"}


def test_a_composite_layer_has_its_last_layer_taken_only():
    class Head(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.big, self.small = L.Dense(16, name="big"), L.Dense(3, name="small")

        def call(self, inputs):
            return keras.ops.softmax(self.small(self.big(inputs)))

    model = build(lambda: functional(Head(name="head")), policy="mixed_float16")
    assert heads(model) == {"head/small"}
    assert model(X).dtype == tf.float32


def test_weights_that_no_policy_reaches_are_told():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = L.Dense(4, name="body")
            self.table = self.add_weight(shape=(3, 4), name="table")

        def call(self, inputs):
            return keras.ops.matmul(self.body(inputs), keras.ops.transpose(self.table))

    model = build(Tied, policy="mixed_float16")
    verify(model, (X, np.zeros(4)))
    assert heads(model) == set()
    assert any("from weights of its own" in note for note in notes(model))


def test_head_policy_and_wider_policies():
    def builder():
        return functional(L.Dense(8), L.Dense(3, name="d"))

    assert heads(build(builder, policy="mixed_float16", head="policy")) == set()
    assert build(builder, policy="mixed_float16", head="float64")(X).dtype == tf.float64
    assert build(builder, policy="float64")(X).dtype == tf.float64  # float32 would narrow it
    assert heads(build(builder, policy="float32")) == set()


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_under_a_pure_half_policy_the_head_has_float32_weights(policy):
    model = build(lambda: functional(L.Dense(8), L.Dense(3, name="d")), policy=policy)
    verify(model, (X, np.zeros(4)))
    assert {v.dtype for v in model.get_layer("d").weights} == {"float32"}
    assert model(X).dtype == tf.float32
    model.compile("sgd", "mse")
    before = model.get_layer("d").kernel.numpy()
    model.train_on_batch(X, np.ones((4, 3)))
    assert not np.array_equal(before, model.get_layer("d").kernel.numpy())


def test_the_weights_of_the_head_stay_those_of_the_seed():
    def builder():
        keras.utils.set_random_seed(5)
        return functional(L.Dense(8), L.Dense(3))

    plain, headed = builder(), build(builder, policy="mixed_float16")
    for one, two in zip(plain.get_weights(), headed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_head_survives_saving(tmp_path):
    builder = lambda: functional(L.Dense(8), L.Dense(3), L.Softmax())  # noqa: E731
    model = build(builder, policy="mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))


def test_images_through_a_dropout_head_train_with_a_mirrored_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = build(
            lambda: functional(
                L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten(), L.Dense(3), shape=(8, 8, 3)
            ),
            policy="float16",
        )
        verify(model, (IMAGES, np.zeros(2)))
    assert model.layers[-1].kernel.dtype == "float32"
