"""What a model casts its input to, held against what it computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import precision
from mpt.models import cnn, gpt, mlp, resnet, vit

SHAPE = (8, 8, 3)


def built(builder, policy="mixed_bfloat16", overrides=(), head="float32"):
    return precision.build(builder, policy=policy, head=head, overrides=overrides)


FAMILIES = {
    "cnn": lambda: cnn.build(shape=SHAPE, classes=3),
    "mlp": lambda: mlp.build(shape=SHAPE, classes=3, hidden=[8]),
    "resnet": lambda: resnet.build(shape=SHAPE, classes=3, depth=8),
    "vit": lambda: vit.build(shape=SHAPE, classes=3, depth=1, width=8),
    "sequential": lambda: keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Rescaling(2.0), keras.layers.Conv2D(3, 3)]
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16", "float32"])
def test_an_input_cast_there_gives_the_same(family, policy):
    keras.utils.set_random_seed(0)
    model = built(FAMILIES[family], policy)
    found = precision.first_cast(model)
    half = policy.removeprefix("mixed_")
    assert found == (None if half == "float32" else half)
    if found is not None:
        x = np.random.default_rng(0).random((4, *SHAPE), np.float32)
        np.testing.assert_array_equal(model(x), model(tf.cast(x, found)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cnn", "resnet", "vit"])
def test_a_training_on_inputs_cast_there_is_the_same(family):
    random = np.random.default_rng(0)
    batches = [(random.random((4, *SHAPE), np.float32), np.arange(4) % 3) for _ in range(4)]
    trained = []
    for dtype in ("float32", "bfloat16"):
        keras.utils.set_random_seed(0)
        model = built(FAMILIES[family])
        model.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
        for x, y in batches:
            model.train_on_batch(tf.cast(x, dtype), y)
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


class Subclassed(keras.Model):
    """A convolution and, where asked, a step or a loss of its own."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Conv2D(3, 3)

    def call(self, x):
        return self.layer(x)


class OwnStep(Subclassed):
    def train_step(self, data):
        return super().train_step((data[0], data[0]))


class OwnLoss(Subclassed):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, x, y_pred, sample_weight, training)


def test_a_subclassed_model_casts_all_that_it_gets():
    model = built(Subclassed)
    model(tf.zeros((1, *SHAPE)))
    assert precision.first_cast(model) == "bfloat16"


def reading_twice():
    inputs = keras.Input(SHAPE)
    full = keras.layers.Conv2D(3, 3, dtype="float32")(inputs)
    return keras.Model(inputs, [full, keras.layers.Conv2D(3, 3)(inputs)])


def given_back():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, [keras.layers.Conv2D(3, 3)(inputs), inputs])


def read_by_an_operation():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs * 2.0))


def two_inputs():
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(inputs, keras.layers.Conv2D(3, 3)(keras.layers.Add()(inputs)))


@pytest.mark.parametrize(
    "builder", [reading_twice, given_back, read_by_an_operation, two_inputs, OwnStep, OwnLoss]
)
def test_an_input_that_is_read_another_way_is_left_as_it_is(builder):
    model = built(builder)
    if isinstance(model, Subclassed):
        model(tf.zeros((1, *SHAPE)))
    assert precision.first_cast(model) is None


def test_a_first_layer_in_float32_is_left_its_input():
    overrides = [{"match": "stem_conv", "policy": "float32"}]
    assert precision.first_cast(built(FAMILIES["resnet"], overrides=overrides)) is None


def test_tokens_are_no_floats():
    model = built(lambda: gpt.build(shape=(8,), classes=16, depth=1, width=8))
    x = tf.zeros((2, 8), tf.int32)
    assert model(x).shape == (2, 8, 64)
    assert precision.first_cast(model) in (None, "bfloat16")
