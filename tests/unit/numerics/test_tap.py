"""A tapped step shows what the model's own step computes, and leaves no trace."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.loss_scale import LossScaleOptimizer
from mpt.numerics import tapped_step, weight_names
from mpt.precision import computing_in

ROWS, FEATURES, CLASSES = 8, 6, 3


def branch(name):
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, activation="tanh", name="dense")(inputs)
    return keras.Model(inputs, hidden, name=name)


def nested():
    """Two nested models whose layers have the same names, and an operation between them."""
    inputs = keras.Input((FEATURES,))
    both = branch("left")(inputs) * branch("right")(inputs)
    both = keras.layers.BatchNormalization(name="norm")(both)
    both = keras.layers.Dropout(0.5, name="dropout")(both)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(both), name="nested")


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(FEATURES, name="inner")

    def call(self, x):
        return x + self.inner(self.inner(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.block = Block(name="block")
        self.head = keras.layers.Dense(CLASSES, name="head")

    def call(self, x):
        return self.head(self.block(x))


def recurrent():
    cell = keras.layers.SimpleRNNCell(4, name="cell")
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Reshape((3, 2), name="reshape"),
            keras.layers.RNN(cell, name="rnn"),
            keras.layers.Dense(CLASSES, activation="softmax", name="head"),
        ],
        name="recurrent",
    )


def grouped():
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Reshape((3, 2), name="reshape"),
            keras.layers.Conv1D(4, 2, groups=2, name="grouped"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(CLASSES, name="head"),
        ],
        name="grouped_convolution",
    )


def batch_of():
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(0, CLASSES, ROWS))


def compiled(model, *, from_logits=True):
    optimizer = LossScaleOptimizer(keras.optimizers.Adam(0.01))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(optimizer, loss, metrics=["accuracy"], auto_scale_loss=False)
    model._symbolic_build(data_batch=batch_of())
    optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    return {
        "nested": compiled(nested()),
        "subclassed": compiled(Subclassed()),
        "recurrent": compiled(recurrent(), from_logits=False),
        "grouped": compiled(grouped()),
    }


def tap(model, scale=1.0):
    return tapped_step(model, batch_of(), scale=scale, reduce=np.array)


def calls_by_path(step):
    found = {}
    for call in step.calls:
        found.setdefault(call.path, []).append(call)
    return found


@pytest.mark.parametrize("name", ["nested", "subclassed", "recurrent", "grouped"])
def test_loss_and_weight_gradients_are_those_of_a_tape(models, name):
    model = models[name]
    x, y = batch_of()
    seeds = [v.numpy() for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, value in zip(model.non_trainable_variables, seeds, strict=True):
        variable.assign(value)
    step = tap(model, scale=8.0)
    np.testing.assert_allclose(step.loss, loss, rtol=1e-6)
    assert len(step.weight_gradients) == len(gradients)
    for seen, gradient in zip(step.weight_gradients.values(), gradients, strict=True):
        np.testing.assert_allclose(seen, 8.0 * gradient, rtol=1e-5, atol=1e-6)


def test_layers_of_one_name_in_two_nested_models_keep_their_gradients_apart(models):
    names = weight_names(models["nested"])
    assert {"left/dense/kernel", "right/dense/kernel"} <= set(names)
    assert names["left/dense/kernel"][0] == "left/dense"
    step = tap(models["nested"])
    left, right = (step.weight_gradients[f"{side}/dense/kernel"] for side in ("left", "right"))
    assert not np.allclose(left, right)


def test_inner_gradients_are_those_of_the_head_s_own_arithmetic(models):
    """The head's input gradient is its output gradient times its transposed kernel."""
    model = models["subclassed"]
    step = tap(model, scale=4.0)
    (head,) = calls_by_path(step)["head"]
    probabilities = tf.nn.softmax(head.outputs[0]).numpy()
    expected = 4.0 * (probabilities - np.eye(CLASSES)[batch_of()[1]]) / ROWS
    np.testing.assert_allclose(head.output_gradients[0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        head.input_gradients[0], expected @ model.head.kernel.numpy().T, rtol=1e-4, atol=1e-6
    )


def test_calls_come_in_the_order_in_which_they_end_with_their_parents(models):
    step = tap(models["subclassed"])
    assert [(call.path, call.repeat) for call in step.calls] == [
        ("block/inner", 0),
        ("block/inner", 1),
        ("block", 0),
        ("head", 0),
        ("subclassed", 0),
    ]
    parents = {call.path: call.parent and call.parent.path for call in step.calls}
    assert parents == {
        "block/inner": "block",
        "block": "subclassed",
        "head": "subclassed",
        "subclassed": None,
    }
    order = sorted(step.calls, key=lambda call: call.backward_order)
    assert [(call.path, call.repeat) for call in order][-2:] == [
        ("block/inner", 1),
        ("block/inner", 0),
    ]


def test_cells_in_a_loop_and_operations_between_layers_are_seen(models):
    step = tap(models["recurrent"])
    cells = calls_by_path(step)["rnn/cell"]
    # Keras calls the cell once before the loop, to learn the output's shape.
    assert [call.repeat for call in cells] == [0, 1, 2, 3]
    assert all(call.parent.path == "rnn" for call in cells)
    came = [call.backward_order is not None for call in cells]
    assert came == [False, True, True, True]
    assert [call.backward_order for call in cells[1:]] == sorted(
        (call.backward_order for call in cells[1:]), reverse=True
    )
    (product,) = (c for c in tap(models["nested"]).calls if c.layer is None)
    np.testing.assert_allclose(product.outputs[0], product.inputs[0] * product.inputs[1])


def test_the_gradient_of_a_softmax_head_comes_by_its_logits(models):
    (head,) = calls_by_path(tap(models["recurrent"]))["head"]
    assert head.output_gradients == [None]
    expected = (head.outputs[0] - np.eye(CLASSES)[batch_of()[1]]) / ROWS
    np.testing.assert_allclose(head.logit_gradients[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["nested", "subclassed", "recurrent"])
def test_nothing_that_lasts_is_changed(models, name):
    model = models[name]
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    before = [v.numpy() for v in variables]
    layers = [keras.Operation, keras.layers.Layer, keras.layers.Dense, type(model)]
    methods = [vars(cls).get("__call__") for cls in layers]
    tap(model)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert [vars(cls).get("__call__") for cls in layers] == methods
    assert not {"apply", "scale_loss"} & set(vars(model.optimizer))
    assert not tf.config.functions_run_eagerly()


def test_a_step_that_fails_leaves_the_classes_as_they_were(models):
    before = keras.layers.Layer.__call__
    x, y = batch_of()
    with pytest.raises(ValueError, match="shape"):
        tapped_step(models["nested"], (x[:, :2], y), scale=1.0, reduce=np.array)
    assert keras.layers.Layer.__call__ is before
    assert not {"apply", "scale_loss"} & set(vars(models["nested"].optimizer))


def test_in_another_dtype_the_same_weights_give_that_dtype_s_numbers(models):
    model = models["subclassed"]
    with computing_in(model, "float64"):
        wide = calls_by_path(tap(model))["block"][0].outputs[0]
    narrow = calls_by_path(tap(model))["block"][0].outputs[0]
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
    kernel = model.block.inner.kernel.numpy().astype("float64")
    x = batch_of()[0].numpy().astype("float64")
    np.testing.assert_allclose(wide, x + x @ kernel @ kernel, rtol=1e-12, atol=1e-14)
