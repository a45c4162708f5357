"""What is seen of a step, in the reference and with the noise off."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import precision
from mpt.errors import ConfigurationError
from mpt.loss_scale import LossScaleOptimizer
from mpt.probing.measures import add_backward, add_forward
from mpt.probing.observation import draws_on_its_own, in_reference, observe, without_noise

ROWS, FEATURES, CLASSES = 16, 12, 4


class Residual(keras.layers.Layer):
    """A layer that holds others, one of them random, and makes an operation in each call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(FEATURES, activation="relu", name="inner")
        self.drop = keras.layers.Dropout(0.5, name="drop")

    def call(self, x, training=None):
        padded = keras.ops.pad(self.drop(self.inner(x), training=training), ((0, 0), (1, 1)))
        return x + padded[:, 1:-1]


class Random(keras.layers.Layer):
    """Noise that nobody else knows of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.generator, dtype=x.dtype)


def build(noise=0.3):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(FEATURES, name="first")(inputs)
    x = Residual(name="residual")(x)
    x = keras.layers.GaussianNoise(noise, name="noise")(x * 0.5)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x), name="small")


def batch_of():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(0, CLASSES, ROWS))


def compiled(builder, policy):
    keras.utils.set_random_seed(1)
    model = precision.build(builder, policy=policy)
    optimizer = LossScaleOptimizer(keras.optimizers.Adam())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, auto_scale_loss=False)
    precision.verify(model, batch_of())
    model._symbolic_build(data_batch=batch_of())
    optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def model():
    made = compiled(build, "mixed_float16")
    keras.config.set_dtype_policy("float32")
    return made


@pytest.fixture(scope="module")
def both(model):
    """The same step in the reference and under the policy at 2^10, without noise."""
    with without_noise(model):
        with in_reference(model, "float32"):
            reference = observe(model, batch_of(), scale=1.0)
        return reference, observe(model, batch_of(), scale=2.0**10)


def gradients_by_tape(policy, scale):
    """Weight gradients of the same model without its noise, by plain Keras and a tape."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    plain = build()
    plain.layers[-1].dtype_policy = "float32"
    x, y = batch_of()
    with tf.GradientTape() as tape:
        logits = plain(x, training=False)
        loss = keras.ops.mean(
            keras.ops.sparse_categorical_crossentropy(y, logits, from_logits=True)
        )
        loss = loss * scale
    keras.config.set_dtype_policy("float32")
    return [g.numpy() for g in tape.gradient(loss, [v.value for v in plain.trainable_variables])]


def test_underflow_shares_are_numpy_s_on_gradients_from_a_tape(both):
    """Two models built by Keras alone, in float32 and in mixed_float16, and NumPy's own count."""
    reference, _ = both
    scale = 2.0**-18  # so that much is lost
    true, narrow = gradients_by_tape("float32", 1.0), gradients_by_tape("mixed_float16", scale)
    model = compiled(build, "mixed_float16")
    with without_noise(model):
        seen = observe(model, batch_of(), scale=scale)
    layers = {}
    add_forward(layers, seen, reference)
    add_backward(layers, seen, reference, scale)
    places = {"first": slice(0, 2), "residual/inner": slice(2, 4), "head": slice(4, 6)}
    for path, place in places.items():
        expected = np.concatenate([g.ravel() for g in true[place]])
        got = np.concatenate([g.ravel() for g in narrow[place]])
        share = np.mean(got[expected != 0] == 0)
        assert layers[path].scales[scale].weights.losses.underflow_share == share
    assert layers["first"].scales[scale].weights.losses.underflow_share > 0.05


def test_the_reference_computes_in_float32_with_the_same_weights(both):
    reference, policy = both
    for true, narrow in zip(gradients_by_tape("float32", 1.0), weights_of(reference), strict=True):
        np.testing.assert_allclose(narrow, true, rtol=1e-4, atol=1e-7)
    assert {str(a.dtype) for seen in reference.layers.values() for a in seen.outputs} == {"float32"}
    assert str(policy.layers["first"].outputs[0].dtype) == "float16"
    assert policy.layers["head"].outputs[0].dtype == np.float32


def weights_of(observation):
    return [g for seen in observation.layers.values() for g in seen.weight_gradients]


def test_layers_operations_and_their_nesting(both):
    _, policy = both
    (operation,) = [path for path, seen in policy.layers.items() if not seen.movable]
    assert operation.startswith("multiply")  # Keras numbers the operations of a process
    assert list(policy.layers) == [
        "first",
        "residual/inner",
        "residual/drop",
        "residual",
        operation,
        "noise",
        "head",
    ]
    assert not policy.layers["residual"].innermost
    assert policy.layers["residual/drop"].innermost
    assert policy.uncalled == []


def test_noise_is_off_inside_and_on_again_afterwards(model):
    with without_noise(model) as quieted:
        assert quieted == ["residual/drop", "noise"]
        seen = observe(model, batch_of(), scale=1.0).layers
        np.testing.assert_array_equal(
            seen["residual/drop"].outputs[0], seen["residual/drop"].inputs[0]
        )
        np.testing.assert_array_equal(seen["noise"].outputs[0], seen["noise"].inputs[0])
    seen = observe(model, batch_of(), scale=1.0).layers
    assert np.mean(seen["residual/drop"].outputs[0] == 0) > 0.6
    assert (seen["noise"].outputs[0] != seen["noise"].inputs[0]).any()
    assert "call" not in vars(model.get_layer("noise"))


def test_dropout_inside_recurrent_cells_is_off_too():
    def recurrent():
        inputs = keras.Input((FEATURES,))
        x = keras.layers.Reshape((4, 3), name="reshape")(inputs)
        x = keras.layers.GRU(5, dropout=0.5, recurrent_dropout=0.5, name="gru")(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x), name="recurrent")

    model = compiled(recurrent, "mixed_float16")
    expected = model(batch_of()[0], training=False)
    with without_noise(model) as quieted:
        assert quieted == ["gru/gru_cell"]
        np.testing.assert_array_equal(model(batch_of()[0], training=True), expected)
    assert model.get_layer("gru").dropout == 0.5
    assert not np.array_equal(model(batch_of()[0], training=True), expected)


def test_a_layer_that_draws_on_its_own_is_named(model):
    def with_random():
        inputs = keras.Input((FEATURES,))
        x = Random(name="mine")(keras.layers.Dropout(0.5, name="known")(inputs))
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))

    assert draws_on_its_own(precision.build(with_random, policy="mixed_float16")) == ["mine"]
    assert draws_on_its_own(model) == []


def test_half_precision_weights_have_wide_gradients_in_the_reference():
    """Else the reference would lose what the policy loses: 1e-9 is zero in float16."""

    def tiny():
        inputs = keras.Input((FEATURES,))
        x = keras.layers.Dense(FEATURES, use_bias=False, name="first")(inputs)
        x = keras.layers.Rescaling(1e-9, dtype="float32", name="scale")(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x))

    model = compiled(tiny, "float16")
    kernel = model.get_layer("first").kernel
    value, before = kernel.numpy(), kernel._value
    assert kernel.dtype == "float16"
    with in_reference(model, "float32"):
        assert kernel.dtype == "float32"
        wide = observe(model, batch_of(), scale=1.0).layers["first"].weight_gradients[0]
        assert kernel.dtype == "float32"
        np.testing.assert_array_equal(kernel.numpy(), value)
    assert wide.dtype == np.float32
    assert np.abs(wide).max() < 2.0**-25
    assert (wide != 0).mean() > 0.9
    assert kernel._value is before
    assert kernel.dtype == "float16"
    narrow = observe(model, batch_of(), scale=1.0).layers["first"].weight_gradients[0]
    assert not narrow.any()


class OwnStep(keras.Model):
    """A train_step of its own, and no call; layers that it calls, and one that it does not."""

    def __init__(self, scaled):
        super().__init__(name="own")
        self.first = keras.layers.Dense(CLASSES, name="first")
        self.first.build((None, FEATURES))
        self.hidden = keras.layers.Dense(CLASSES, name="hidden")
        self.hidden.build((None, CLASSES))
        self.scaled = scaled

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits = keras.ops.cast(self.hidden.call(self.first(x)), "float32")
            loss = keras.ops.mean(
                keras.ops.sparse_categorical_crossentropy(y, logits, from_logits=True)
            )
            scaled = self.optimizer.scale_loss(loss) if self.scaled else loss
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss}


def own_step(scaled):
    model = precision.build(lambda: OwnStep(scaled), policy="mixed_float16")
    model.compile(LossScaleOptimizer(keras.optimizers.SGD()), auto_scale_loss=False)
    model.optimizer.build(model.trainable_variables)
    return model


def test_what_a_train_step_calls_past_keras_is_named():
    seen = observe(own_step(True), batch_of(), scale=1.0)
    assert list(seen.layers) == ["first", "hidden"]
    assert seen.uncalled == ["hidden"]
    assert seen.layers["hidden"].outputs == []
    assert len(seen.layers["hidden"].weight_gradients) == 2


def test_a_train_step_that_never_scales_its_loss_is_refused():
    with pytest.raises(ConfigurationError, match="never calls"):
        observe(own_step(False), batch_of(), scale=1.0)
