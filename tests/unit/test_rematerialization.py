"""Blocks that are computed again: the same results, less that is kept, clear refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.rematerialization import blocks, rematerialized

L = keras.layers
PATTERN = r"block\d+_"
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(16, 8)).astype("float32"), RANDOM.integers(0, 3, 16)


@pytest.fixture(autouse=True)
def float32_policy():
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


def residual():
    inputs = keras.Input((8,))
    x = L.Dense(12, name="stem")(inputs)
    for number in (1, 2):
        y = L.Dense(12, name=f"block{number}_dense")(x)
        y = L.BatchNormalization(name=f"block{number}_norm")(y)
        y = keras.ops.tanh(y) * 2  # between the block's layers, so in the block
        y = L.Dropout(0.3, seed=number, name=f"block{number}_drop")(y)
        x = L.Add(name=f"block{number}_add")([x, y])
    return keras.Model(inputs, L.Dense(3, name="head", dtype="float32")(x))


def nested():
    inner = keras.Sequential(
        [keras.Input((12,)), L.Dense(12, name="block1_a"), L.GaussianNoise(0.1, name="block1_b")],
        name="inner",
    )
    inputs = keras.Input((8,))
    x = inner(L.Dense(12)(inputs))
    return keras.Model(inputs, L.Dense(3, dtype="float32")(x))


def spectral():
    inputs = keras.Input((8,))
    x = L.SpectralNormalization(L.Dense(12), name="block1_spectral")(inputs)
    x = L.Activation("tanh", name="block1_tanh")(x)
    return keras.Model(inputs, L.Dense(3, name="head", dtype="float32")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = nested()

    def call(self, x, training=None):
        return self.body(x, training=training)


def masked():
    inputs = keras.Input((4, 2))
    x = L.Masking(0.0, name="mask")(L.Reshape((4, 2))(inputs))
    x = L.Dense(5, name="block1_dense")(x)
    x = L.LayerNormalization(name="block1_norm")(x)
    x = L.LSTM(4, name="block2_lstm")(x)
    return keras.Model(inputs, L.Dense(3, dtype="float32")(x))


def trained(builder, patterns, *, policy="float32", jit=True, x=X):
    """Losses of five steps, and every variable after them."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    model = builder()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=(x, Y))
    step = rematerialized(blocks(model, patterns), model.train_step)
    step = tf.function(step, jit_compile=jit)
    batch = (tf.constant(x), tf.constant(Y))
    losses = [float(step(batch)["loss"]) for _ in range(5)]
    return losses, [np.asarray(v).astype("float64") for v in model.variables]


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_bfloat16"]
)
@pytest.mark.parametrize("builder", [residual, nested, spectral, Subclassed])
def test_nothing_changes_neither_what_is_drawn_nor_what_is_learned(builder, policy):
    plain = trained(builder, [], policy=policy)
    again = trained(builder, [PATTERN], policy=policy)
    assert again[0] == plain[0]
    assert plain[0][0] != plain[0][-1]
    for value, expected in zip(again[1], plain[1], strict=True):
        np.testing.assert_array_equal(value, expected)


def test_without_xla_it_is_the_same_but_for_how_kernels_are_fused():
    plain, again = trained(residual, [], jit=False), trained(residual, [PATTERN], jit=False)
    for value, expected in zip(again[1], plain[1], strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-6)


def test_masks_go_through_a_block():
    x = np.where(RANDOM.random((16, 4, 1)) < 0.5, 0, RANDOM.normal(size=(16, 4, 2)))
    x = x.astype("float32")
    plain = trained(masked, [], jit=False, x=x)
    again = trained(masked, [PATTERN], jit=False, x=x)
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-5)
    unmasked = np.where(x == 0, 1e-9, x)  # the mask did something
    assert trained(masked, [], jit=False, x=unmasked)[0] != pytest.approx(plain[0], rel=1e-4)


def kept_for_the_gradient(patterns):
    """Tanh operations of the forward pass whose output a gradient takes, and all of them."""
    model = residual()
    weights = model.trainable_variables

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            rematerialized(blocks(model, patterns), lambda x: held.append(model(x, training=True)))(
                x
            )
            loss = tf.reduce_sum(held.pop())
        return tape.gradient(loss, [weight.value for weight in weights])

    held = []
    graph = gradients.get_concrete_function(tf.constant(X)).graph
    operations = [op for op in graph.get_operations() if op.type == "Tanh"]
    kept = [
        op
        for op in operations
        if any("TanhGrad" in user.type for user in op.outputs[0].consumers())
    ]
    return operations, kept


def test_nothing_inside_of_a_block_is_kept():
    operations, kept = kept_for_the_gradient([])
    assert len(operations) == len(kept) == 2
    operations, kept = kept_for_the_gradient([PATTERN])
    assert len(operations) == 4
    assert kept == operations[2:]  # the backward pass takes what it has computed again


def test_a_block_is_what_a_pattern_finds_alike_and_all_between():
    model = residual()
    ((graph, own),) = blocks(model, [PATTERN])
    assert graph is model
    assert [block.name for block in own] == ["block1_", "block2_"]
    for block in own:
        kinds = [type(node.operation).__name__ for node in block.nodes]
        assert kinds == ["Dense", "BatchNormalization", "Tanh", "Multiply", "Dropout", "Add"]
    (whole,) = blocks(model, ["block"])[0][1]
    assert len(whole.nodes) == 12
    ((graph, own),) = blocks(nested(), [PATTERN])
    assert own[0].paths == ["inner/block1_a", "inner/block1_b"]
    ((graph, own),) = blocks(nested(), ["inner"])  # the model that is inside, and not again in it
    assert own[0].paths == ["inner"]
    assert blocks(model, []) == []


def two_ways():
    inputs = keras.Input((8,))
    a1, b2 = L.Dense(8, name="a_1")(inputs), L.Dense(8, name="b_2")(inputs)
    b1, a2 = L.Dense(8, name="b_1")(a1), L.Dense(8, name="a_2")(b2)
    return keras.Model(inputs, L.Add()([b1, a2]))


def ladder():
    x = inputs = keras.Input((8,))
    for name in ("down1", "up1", "down2", "up2"):
        x = L.Dense(8, name=f"{name}_dense")(x)
    return keras.Model(inputs, x)


def with_losses():
    inputs = keras.Input((8,))
    x = L.Dense(8, activity_regularizer="l2", name="block1_dense")(inputs)
    return keras.Model(inputs, L.Dense(3)(x))


class AddsLoss(L.Layer):
    def call(self, x, training=None):
        if training:
            self.add_loss(keras.ops.mean(x * x))
        return x


def test_a_loss_that_is_added_while_a_layer_is_called_is_refused():
    def builder():
        x = inputs = keras.Input((8,))
        for layer in (L.Dense(8, name="block1_dense"), AddsLoss(name="block1_loss")):
            x = layer(x)
        return keras.Model(inputs, L.Dense(3)(x))

    # TensorFlow wraps what is raised while it traces.
    with pytest.raises(Exception, match=r"(?s)ConfigurationError: .*'block1_loss' .* adds a loss"):
        trained(builder, [PATTERN])
    trained(builder, ["block1_dense"])


@pytest.mark.parametrize(
    ("builder", "patterns", "says"),
    [
        (residual, [PATTERN, "blok"], "'blok' is found in no layer's path"),
        (two_ways, ["^[ab]_"], "The blocks a_, b_ need each other's outputs"),
        (ladder, ["down|up"], "overlap in"),
        (with_losses, [PATTERN], "adds a loss of its activations"),
    ],
)
def test_refusals(builder, patterns, says):
    with pytest.raises(ConfigurationError, match=says) as refused:
        blocks(builder(), patterns)
    assert refused.value.where.startswith("trainer.rematerialize")
