"""Planted faults are named: the layer, the direction, the numbers, and a remedy that holds."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from planted import KINDS, SCALE, planted_model

from mpt import precision
from mpt.loss_scale import LossScaleOptimizer
from mpt.numerics import Captured, diagnose, replaying

LAYERS, ops = keras.layers, keras.ops
FLOAT16_MAX = 65504.0


def kinds_and_jit():
    """Every kind of model, with XLA and without; two of the three that XLA compiles are slow."""
    for kind in KINDS:
        for jit in (False, True):
            slow = [pytest.mark.slow] if jit and kind != "functional" else []
            yield pytest.param((kind, jit), id=f"{kind}-{'xla' if jit else 'plain'}", marks=slow)


@pytest.fixture(scope="module", params=kinds_and_jit())
def planted(request):
    kind, jit = request.param
    made = planted_model(kind, jit=jit)
    assert made.restart().run() is None, "nothing is captured before a fault is planted"
    return made


def found_in(planted, *batches):
    captured = planted.run(*batches)
    before = [v.numpy() for v in [*planted.model.variables, *planted.optimizer.variables]]
    with replaying(planted.model, captured) as replay:
        found = diagnose(replay)
    after = [v.numpy() for v in [*planted.model.variables, *planted.optimizer.variables]]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    return found


def wide_outputs(planted):
    """What comes out of `wide`, computed by NumPy in float64."""
    weights = {n: [planted.weight(n, i).numpy().astype("float64") for i in (0, 1)] for n in NAMES}
    x = planted.x.astype("float64")
    for name in ("first", "wide"):
        x = x @ weights[name][0] + weights[name][1]
    return x, weights["head"]


NAMES = ("first", "wide", "head")


def test_forward_overflow(planted):
    planted.restart().weight("wide", 1).assign([300.0, 1.0, -2.0, 0.0, 0.0])
    largest = np.abs(wide_outputs(planted)[0]).max()
    found = found_in(planted)
    path = planted.path("square")
    assert (found.direction, found.path, found.kind) == ("forward", path, "Square")
    assert found.largest_finite == pytest.approx(largest, rel=2e-3)
    assert (found.dtype, found.float32_finite, found.bad_rows) == ("float16", True, ())
    assert "no loss scale helps" in found.message
    assert f"precision.overrides=[{{match:{_typed(path)},policy:float32}}]" in found.remedy
    assert "this step is finite then" in found.remedy
    assert "mixed_bfloat16" in found.remedy


def test_backward_overflow(planted):
    planted.restart().overflow_backward()
    outputs, (head, bias) = wide_outputs(planted)
    predictions = outputs**2 @ head + bias
    by_hand = SCALE * (-1.0 / (predictions * len(predictions))) @ head.T * 2 * outputs
    beyond = by_hand @ planted.weight("wide").numpy().T
    assert np.abs(by_hand).max() < FLOAT16_MAX < np.abs(beyond).max()
    found = found_in(planted)
    path = planted.path("wide")
    assert (found.direction, found.path, found.kind) == ("backward", path, "Dense")
    assert found.largest_finite == pytest.approx(np.abs(by_hand).max(), rel=5e-3)
    assert (found.dtype, found.float32_finite, found.loss_scale) == ("float16", True, SCALE)
    # A power of two at which all gradients keep two bits below float16's end.
    scale = float(found.remedy.split("loss_scale.initial_scale=")[1].split(",")[0].split()[0])
    assert np.log2(scale) == int(np.log2(scale))
    largest = max(np.abs(g).max() for g in (beyond, planted.x.T @ beyond, beyond.sum(0)))
    assert largest * scale / SCALE <= FLOAT16_MAX / 4 < largest * 2 * scale / SCALE
    planted.optimizer.dynamic_scale.assign(scale)
    planted.capture.rearm()
    assert planted.run() is None, "the step is finite at the scale that was named"


def test_nan_in_rows_of_the_input(planted):
    x = planted.restart().x.copy()
    x[3, 1], x[5, 0] = np.nan, np.inf
    found = found_in(planted, (x, planted.y))
    assert (found.direction, found.path, found.bad_rows) == ("input", None, (3, 5))
    assert found.float32_finite is False
    assert "inputs: rows 3, 5" in found.message


def test_nan_in_a_weight(planted):
    kernel = planted.restart().weight("wide").numpy()
    kernel[0, 0] = np.nan
    planted.weight("wide").assign(kernel)
    found = found_in(planted)
    path = planted.path("wide")
    assert (found.direction, found.path, found.kind) == ("weight", path, "Dense")
    assert f"{path}/kernel holds NaN" in found.message


def test_log_of_0_in_a_custom_loss(planted):
    planted.restart().weight("head", 1).assign([-5.0])
    outputs, (head, bias) = wide_outputs(planted)
    found = found_in(planted)
    assert (found.direction, found.path, found.float32_finite) == ("loss", None, False)
    assert found.largest_finite == pytest.approx(np.abs(outputs**2 @ head + bias).max(), rel=5e-3)
    assert "epsilon" in found.remedy


def _typed(path):
    return f"'{path}'" if "/" in path else path


def diagnosed(build, x, y=None, *, loss="mse", scale=1.0, mode="fixed", weights=None, overrides=()):
    """The diagnosis of one step of a model under mixed_float16, without training it first."""
    keras.utils.set_random_seed(2)
    model = precision.build(build, policy="mixed_float16", overrides=list(overrides))
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1), mode=mode)
    model.compile(optimizer, loss, auto_scale_loss=False)
    y = np.zeros((len(x), 1), "float32") if y is None else y
    batch = tuple(map(tf.constant, (x, y) if weights is None else (x, y, weights)))
    model._symbolic_build(data_batch=batch)
    optimizer.build(model.trainable_variables)
    state = [variable.numpy() for variable in model.variables]
    with replaying(model, Captured(7, scale, np.nan, False, batch, state)) as replay:
        return diagnose(replay, overrides)


def sequential(*layers):
    return lambda: keras.Sequential([keras.Input((2,)), *(make() for make in layers)])


def ones(value=1.0, **kwargs):
    constant = keras.initializers.Constant(value)
    return lambda: LAYERS.Dense(2, kernel_initializer=constant, **kwargs)


X = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")


class Between(keras.Model):
    """Operations of its own between two layers."""

    def __init__(self, operation, value):
        super().__init__(name="between")
        self.operation = operation
        self.a = ones(value, name="a")()
        self.b = ones(name="b")()

    def call(self, inputs):
        return self.b(self.operation(self.a(inputs)))


def test_the_models_own_operation_between_its_layers_going_forward():
    found = diagnosed(lambda: Between(ops.exp, 4.0), X)
    assert (found.direction, found.path, found.kind) == ("forward", "between", "Between")
    assert "in its own operations before 'b'" in found.headline
    assert found.largest_finite == 28.0  # (3 + 4) * 4, what `a` gave
    assert "cast" in found.remedy
    assert "precision.overrides" not in found.remedy, "that would be the whole model"


def test_the_models_own_operation_between_its_layers_going_back():
    found = diagnosed(lambda: Between(lambda x: x * 1e4, 1e-4), X, scale=2.0**4)
    assert (found.direction, found.path, found.float32_finite) == ("backward", "between", True)
    assert "in its own operations after 'a'" in found.headline


def test_inputs_too_large_for_float16_are_a_cast_that_overflows():
    found = diagnosed(sequential(ones(name="a"), ones(name="b")), 1e5 * X)
    assert (found.direction, found.path) == ("forward", "a")
    assert found.largest_finite == pytest.approx(4e5)
    assert "are cast to float16, which ends at 65504" in found.message


def test_an_operation_of_a_functional_model_is_named():
    def build():
        inputs = keras.Input((2,))
        return keras.Model(inputs, ones(name="b")()(ops.exp(ones(4.0, name="a")()(inputs))))

    found = diagnosed(build, X)
    assert (found.direction, found.kind, found.dtype) == ("forward", "Operation", "float16")
    assert found.path.startswith("exp")


def test_a_mask_of_minus_infinity_is_not_to_blame():
    class Masked(LAYERS.Layer):
        def call(self, inputs):
            return ops.where([[True, False]], inputs, -np.inf)

    class Large(LAYERS.Layer):
        def call(self, inputs):
            return ops.exp(20 * inputs)

    class Added(keras.Model):
        def __init__(self):
            super().__init__(name="added")
            self.a, self.mask, self.soft = ones(500.0)(), Masked(name="mask"), LAYERS.Softmax()
            self.large, self.head = Large(name="large"), ones(name="head")()

        def call(self, inputs):
            return self.head(self.large(self.soft(self.mask(self.a(inputs)))))

    found = diagnosed(Added, X)
    assert (found.path, found.float32_finite) == ("large", True)


def test_a_later_call_of_a_shared_layer_is_told():
    def build():
        inputs = keras.Input((2,))
        shared = ones(30.0, name="shared")
        layer = shared()
        x = layer(layer(layer(inputs)))
        return keras.Model(inputs, ones(name="b")()(x))

    found = diagnosed(build, X)
    assert found.path == "shared"
    assert "in its call 3" in found.headline
    assert found.largest_finite == (3 + 4) * 30 * (2 * 30)  # of two calls before


def test_layers_are_added_until_the_step_is_finite():
    found = diagnosed(sequential(ones(1e4, name="a"), ones(name="b"), ones(name="c")), X)
    assert found.path == "a"
    assert found.remedy.startswith("keep 2 layers in float32")
    assert "{match:a,policy:float32},{match:b,policy:float32}" in found.remedy
    own = [{"match": "class:Softmax", "policy": "float32"}]
    found = diagnosed(
        sequential(ones(1e4, name="a"), LAYERS.Softmax, ones(name="c")), X, overrides=own
    )
    assert "[{match:'class:Softmax',policy:float32},{match:a,policy:float32}]" in found.remedy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_and_sample_weights_that_are_not_finite(value):
    y = np.array([[0.0], [value]], "float32")
    found = diagnosed(sequential(ones()), X, y)
    assert (found.direction, found.bad_rows) == ("input", (1,))
    assert f"targets with {'NaN' if np.isnan(value) else 'Infinity'}" in found.headline
    found = diagnosed(sequential(ones()), X, weights=np.array([value, 1.0], "float32"))
    assert (found.direction, found.bad_rows) == ("input", (0,))
    assert "sample weights" in found.headline


def test_a_fault_elsewhere_is_not_put_on_targets_that_are_not_finite():
    y = np.array([[0.0], [np.nan]], "float32")
    found = diagnosed(sequential(ones(1e5, name="a"), ones(name="b")), X, y)
    assert (found.direction, found.path) == ("forward", "a")


def test_a_derivative_that_is_infinite_in_any_dtype():
    class Root(LAYERS.Layer):
        def call(self, inputs):
            return ops.sqrt(ops.relu(inputs))

    found = diagnosed(
        sequential(ones(0.0, name="a"), lambda: Root(name="root"), ones(name="b")),
        X,
        np.ones((2, 1), "float32"),
    )
    assert (found.direction, found.path, found.float32_finite) == ("backward", "root", False)
    assert found.remedy.startswith("no scale and no dtype helps")


def test_the_gradient_into_a_softmax_head_overflows():
    def build():
        inputs = keras.Input((2,))
        x = ones(1e-2, name="a")()(inputs)
        return keras.Model(inputs, LAYERS.Dense(2, activation="softmax", name="head")(x))

    found = diagnosed(
        build, X, np.array([0, 1]), loss="sparse_categorical_crossentropy", scale=2.0**20
    )
    assert (found.direction, found.path, found.float32_finite) == ("backward", "head", True)
    # The head is float32; the gradient of its input is cast to float16, as the input was.
    assert (found.dtype, found.largest_finite > FLOAT16_MAX) == ("float16", True)
    assert "mixed_bfloat16" in found.remedy


def test_a_train_steps_own_operation_before_the_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.a = ones(name="a")()

        def call(self, inputs):
            return self.a(inputs)

        def train_step(self, data):
            x, y = data
            return super().train_step((x / 0.0, y))

    # The targets are not finite either, but the model meets the inputs first.
    found = diagnosed(Own, X, np.full((2, 2), np.nan, "float32"))
    assert (found.direction, found.path, found.largest_finite) == ("forward", "own", None)
    assert found.headline.startswith("train_step of Own 'own' overflowed going forward")


def test_attention_that_multiplies_before_it_scales():
    def build():
        inputs = keras.Input((5, 8))
        wide = keras.initializers.RandomNormal(stddev=40.0, seed=1)
        x = LAYERS.MultiHeadAttention(1, 64, kernel_initializer=wide, name="attention")(
            inputs, inputs
        )
        return keras.Model(inputs, ones(1e-6, name="b")()(x))

    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    found = diagnosed(build, x, np.zeros((2, 5, 2), "float32"))
    assert (found.direction, found.path) == ("forward", "attention")
    assert found.kind == "MultiHeadAttention"
    assert "in its own operations" in found.headline


def test_a_step_whose_replay_is_finite_is_told_as_such():
    found = diagnosed(sequential(ones(8192.0, name="a"), ones(0.0, name="b")), X)
    assert (found.direction, found.path, found.float32_finite) == (None, None, True)
    assert "in float16 (0.88 of its largest number)" in found.message


def test_a_layer_of_recurrent_cells():
    def build():
        inputs = keras.Input((3, 2))
        x = LAYERS.SimpleRNN(2, activation="exponential", name="rnn")(inputs)
        return keras.Model(inputs, ones(name="b")()(x))

    found = diagnosed(build, np.full((2, 3, 2), 20.0, "float32"))
    assert (found.direction, found.path) == ("forward", "rnn/simple_rnn_cell")


def test_targets_that_the_loss_leaves_out_are_not_to_blame():
    @tf.custom_gradient
    def steep(x):
        return x, lambda gradient: gradient * tf.cast(20_000, gradient.dtype)

    class Steep(LAYERS.Layer):
        def call(self, inputs):
            return steep(inputs)

    def masked(y, p):
        return ops.mean(ops.square(ops.where(ops.isnan(y), p, y) - p))

    y = np.array([[0.0, 0.0], [np.nan, 0.0]], "float32")
    layers = sequential(ones(name="a"), lambda: Steep(name="steep"), ones(name="b"))
    found = diagnosed(layers, X, y, loss=masked, scale=16.0)
    assert (found.direction, found.path, found.float32_finite) == ("backward", "steep", True)


def test_a_weight_of_minus_infinity_that_float32_bears_is_not_to_blame():
    class Buffer(LAYERS.Layer):
        def build(self, shape):
            self.mask = self.add_weight(shape=(2,), initializer="zeros", trainable=False)
            self.mask.assign([0.0, -np.inf])

        def call(self, inputs):
            return keras.activations.softmax(inputs * inputs + self.mask)

    found = diagnosed(sequential(ones(100.0), lambda: Buffer(name="buffer"), ones()), X)
    assert (found.direction, found.path, found.float32_finite) == ("forward", "buffer", True)


@pytest.mark.parametrize("adding", ["add_loss", "activity_regularizer"])
def test_a_layer_whose_own_loss_overflows_is_named(adding):
    class Adding(LAYERS.Layer):
        def call(self, inputs):
            self.add_loss(ops.cast(ops.sum(ops.square(inputs * 1000)), "float32"))
            return inputs

    layer = {
        "add_loss": lambda: Adding(name="adding"),
        "activity_regularizer": ones(
            name="adding", activity_regularizer=keras.regularizers.L2(1e5)
        ),
    }[adding]
    found = diagnosed(sequential(ones(name="a"), layer, ones(name="b")), X)
    assert (found.direction, found.path, found.float32_finite) == ("forward", "adding", True)
    assert "{match:adding,policy:float32}" in found.remedy
