"""Which variables of the model families decay."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import optim
from mpt.errors import ConfigurationError
from mpt.models import gpt, resnet, vit


def decayed(model, **settings):
    """The paths of the variables that a step with gradients of 0 makes smaller, to the others'."""
    optimizer = optim.build(
        name="sgd", learning_rate=0.5, total_steps=1, weight_decay=0.5, **settings
    )
    variables = model.trainable_variables
    optimizer.build(variables)
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables)
    values = {variable.path: np.unique(variable.numpy()).tolist() for variable in variables}
    assert all(value in ([0.75], [1.0]) for value in values.values())
    return ({path for path, value in values.items() if value == [one]} for one in (0.75, 1.0))


def matching(paths, pattern):
    return {path for path in paths if re.search(pattern, path)}


def test_a_resnet():
    smaller, same = decayed(resnet.build(shape=(16, 16, 3), classes=4, depth=8))
    assert {path.rpartition("/")[2] for path in smaller} == {"kernel"}
    assert {path.rpartition("/")[2] for path in same} == {"gamma", "beta", "bias"}
    assert len(smaller) == 8


def test_a_vit():
    model = vit.build(shape=(8, 8, 3), classes=4, depth=2, heads=2, width=8)
    smaller, same = decayed(model)
    assert {path.rpartition("/")[2] for path in smaller} == {"kernel", "embeddings"}
    assert matching(smaller, "embeddings") == {
        "class_embedding/embeddings",
        "position_embedding/embeddings",
    }
    assert {path.rpartition("/")[2] for path in same} == {"gamma", "beta", "bias"}
    smaller, same = decayed(
        model, weight_decay_exclude=["norms_and_biases", "^(class|position)_embedding/"]
    )
    assert {path.rpartition("/")[2] for path in smaller} == {"kernel"}
    assert len(matching(same, "embeddings")) == 2


def test_a_gpt():
    model = gpt.build(shape=(8,), classes=16, depth=2, heads=2, width=8)
    smaller, same = decayed(model)
    assert "token_embedding/embeddings" in smaller
    assert "position_embedding/embeddings" in smaller
    assert not matching(smaller, "norm|bias")
    assert matching(same, "norm|bias") == same
    smaller, same = decayed(model, weight_decay_exclude=[])
    assert not same
    smaller, same = decayed(model, weight_decay_exclude=["embedding"])
    assert same == {"token_embedding/embeddings", "position_embedding/embeddings"}


def test_the_biases_of_attention_have_two_axes():
    inputs = keras.Input((4, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    smaller, same = decayed(keras.Model(inputs, attention(inputs, inputs)))
    assert len(smaller) == len(same) == 4
    assert matching(same, "bias$") == same


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lion", "sgd"])
@pytest.mark.parametrize("jit", [False, True])
def test_every_optimizer_excludes_them(name, jit):
    settings = {"name": name, "learning_rate": 0.1, "total_steps": 1, "weight_decay": 0.5}
    optimizer = optim.build(**settings)
    kernel, bias = keras.Variable(tf.ones((2, 2)), name="kernel"), keras.Variable(tf.ones(2))
    optimizer.build([kernel, bias])

    @tf.function(jit_compile=jit)
    def step():
        optimizer.apply([tf.zeros((2, 2)), tf.zeros(2)], [kernel, bias])

    step()
    np.testing.assert_allclose(kernel, 0.95, rtol=1e-6)
    np.testing.assert_array_equal(bias, 1.0)


@pytest.mark.parametrize(
    ("exclude", "where"),
    [
        ("norms_and_biases", "optimizer.weight_decay_exclude"),
        (["("], "optimizer.weight_decay_exclude[0]"),
        ([3], "optimizer.weight_decay_exclude[0]"),
        (["norms_and_biases", "kernl"], "optimizer.weight_decay_exclude[1]"),
    ],
)
def test_what_excludes_nothing_is_refused(exclude, where):
    settings = {"name": "sgd", "learning_rate": 0.1, "total_steps": 1, "weight_decay": 0.1}
    kernel = keras.Variable(tf.ones((2, 2)), name="kernel")
    with pytest.raises(ConfigurationError) as error:
        optim.build(**settings, weight_decay_exclude=exclude).build([kernel])
    assert error.value.where == where


def test_without_decay_nothing_is_looked_for():
    settings = {"name": "adamw", "learning_rate": 0.1, "total_steps": 1}
    optimizer = optim.build(**settings, weight_decay_exclude=["absent"])
    optimizer.build([keras.Variable(tf.ones((2, 2)))])
