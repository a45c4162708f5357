"""Evaluation with the moving average of the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import optim
from mpt.averaging import AveragedEvaluation
from mpt.loss_scale import LossScaleOptimizer
from mpt.variables import values

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.standard_normal((12, 4)).astype("float32"), RANDOM.standard_normal((12, 1))
MOMENTUM = 0.75


def compiled(every=1, **settings):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    inner = optim.build(
        name="sgd",
        learning_rate=0.1,
        total_steps=40,
        gradient_accumulation_steps=every,
        **{"ema": True, "ema_momentum": MOMENTUM, **settings},
    )
    model.compile(LossScaleOptimizer(inner, mode="none"), "mean_squared_error")
    model.optimizer.build(model.trainable_variables)
    return model


def evaluation(model):
    data = tf.data.Dataset.from_tensor_slices((X, Y.astype("float32"))).batch(6).repeat()
    return AveragedEvaluation(model, tf.distribute.get_strategy(), iter(data), 2)


def step(model):
    model.train_on_batch(X, Y)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_pass_sees_the_average_and_leaves_the_weights(every):
    model = compiled(every)
    loop, average = evaluation(model), None
    for number in range(1, 13):
        step(model)
        raw = [weight.numpy() for weight in model.trainable_variables]
        if number % every == 0:
            average = (
                raw
                if average is None
                else [MOMENTUM * a + (1 - MOMENTUM) * w for a, w in zip(average, raw, strict=True)]
            )
        before = values([*model.variables, *model.optimizer.variables])
        found = loop.run()["loss"]
        after = values([*model.variables, *model.optimizer.variables])
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one, other)
        twin = compiled()
        twin.set_weights(model.get_weights())
        for weight, value in zip(twin.trainable_variables, average or raw, strict=True):
            weight.assign(value)
        assert found == pytest.approx(float(np.mean((twin(X) - Y) ** 2)), rel=1e-5)


def test_without_an_average_a_pass_sees_the_weights():
    model = compiled(ema=False, ema_momentum=0.5)
    step(model)
    assert evaluation(model).run()["loss"] == pytest.approx(
        float(np.mean((model(X) - Y) ** 2)), rel=1e-5
    )


def test_the_weights_come_back_when_a_pass_fails():
    model = compiled()
    for _ in range(3):
        step(model)
    before = values(model.variables)

    def fail():
        with optim.averaged(model):
            within = values(model.variables)
            assert any((a != b).any() for a, b in zip(before, within, strict=True))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    for one, other in zip(before, values(model.variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_before_the_first_update_there_is_no_average():
    """A run whose first steps are all skipped; Keras's average is 0 then."""
    model = compiled(2)
    step(model)
    with optim.averaged(model):
        assert any(weight.numpy().any() for weight in model.trainable_variables)
