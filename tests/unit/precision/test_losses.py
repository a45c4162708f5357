"""add_loss and activity regularizers in half precision train beside a float32 loss."""

import keras
import numpy as np
import pytest

from mpt.precision import build, verify

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
Y = np.zeros((4, 1), "float32")


class Penalty(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs))
        return inputs


def network(*layers):
    def builder():
        inputs = x = keras.Input((6,))
        for layer in layers:
            x = layer()(x)
        return keras.Model(inputs, L.Dense(1)(x))

    return builder


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "layer", [Penalty, lambda: L.Dense(4, activity_regularizer="l2")], ids=["add_loss", "activity"]
)
def test_it_trains(policy, layer):
    model = build(network(layer), policy=policy)
    verify(model, (X, Y))
    model.compile("sgd", "mse", auto_scale_loss=False, run_eagerly=False)
    assert np.isfinite(model.train_on_batch(X, Y))


def test_plain_keras_cannot_which_is_why():
    keras.config.set_dtype_policy("mixed_float16")
    model = network(Penalty)()
    model.compile("sgd", "mse", auto_scale_loss=False)
    with pytest.raises(TypeError):
        model.train_on_batch(X, Y)


def test_a_vector_of_losses_is_summed_in_float32():
    class Many(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.full((4,), 3e4, dtype="float16"))
            return inputs

    model = build(network(Many), policy="mixed_float16")
    model.compile("sgd", "mse", auto_scale_loss=False)
    assert model.evaluate(X, Y, verbose=0) >= 1.2e5


def test_the_dry_run_leaves_no_losses_behind():
    model = build(network(Penalty), policy="mixed_float16")
    verify(model, (X, Y))
    assert model.losses == []
