"""The wrapper's scale against Keras's and PyTorch's, its bounds, counters, saving and errors."""

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.loss_scale import LossScaleOptimizer, guarded

TORCH_SCALER = """
import json, sys, torch
paths = []
for job in json.load(sys.stdin):
    parameter = torch.zeros(1, requires_grad=True)
    inner = torch.optim.SGD([parameter], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", **job["settings"])
    path = []
    for gradient in job["gradients"]:
        scaler.scale(parameter.sum())
        parameter.grad = torch.tensor([gradient])
        scaler.step(inner)
        scaler.update()
        path.append(scaler.get_scale())
    paths.append(path)
print(json.dumps(paths))
"""
TORCH_CASES = [  # growth factor, backoff factor, growth interval, share and seed of overflows
    (2.0, 0.5, 3, 0.2, 3),
    (2.0, 0.5, 1, 0.5, 4),
    (1.5, 0.75, 2, 0.2, 5),
    (4.0, 0.1, 4, 0.2, 6),
    (2.0, 0.5, 10, 0.05, 7),
]


def wrapper(variables=None, **settings):
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1), **settings)
    variables = [keras.Variable(1.0)] if variables is None else variables
    optimizer.build(variables)
    optimizer.scale_loss(0.0)
    return optimizer


def stepping(optimizer, *, jit=False):
    """A function that applies a gradient of 1 or of NaN, and returns the scale after it."""
    variables = optimizer._trainable_variables

    @tf.function(jit_compile=jit)
    def step(gradient):
        optimizer.apply([gradient for _ in variables], variables)
        return tf.convert_to_tensor(optimizer.dynamic_scale)

    def call(gradient):
        if isinstance(gradient, bool):  # finite or not
            gradient = 1.0 if gradient else math.nan
        return float(step(tf.constant(gradient)))

    return call


def random_gradients(seed, overflows=0.2, count=120):
    """Gradients of 1, and among them at random NaN and both infinities."""
    random = np.random.default_rng(seed)
    bad = random.random(count) < overflows
    return np.where(bad, random.choice([math.nan, math.inf, -math.inf], count), 1.0).tolist()


def torch_python():
    if "MPT_TORCH_PYTHON" in os.environ:
        return os.environ["MPT_TORCH_PYTHON"]
    pytest.importorskip("torch", reason="PyTorch is absent, and MPT_TORCH_PYTHON is not set")
    return sys.executable


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("seed", "overflows", "growth_steps"), [(0, 0.2, 3), (1, 0.05, 7), (2, 0.5, 1)]
)
def test_the_scale_takes_kerass_path(seed, overflows, growth_steps, jit):
    # Keras's has neither floor nor ceiling.
    ours = wrapper(initial_scale=1024.0, growth_steps=growth_steps, min_scale=1e-37, max_scale=3e38)
    theirs = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=1024.0, dynamic_growth_steps=growth_steps
    )
    theirs.build([keras.Variable(1.0)])
    step, reference = stepping(ours, jit=jit), stepping(theirs)
    for gradient in random_gradients(seed, overflows):
        assert step(gradient) == reference(gradient)
        assert int(ours.step_counter) == int(theirs.step_counter)


@pytest.fixture(scope="module")
def pytorchs_paths():
    jobs = [
        {
            "settings": {
                "init_scale": 2.0**15,
                "growth_factor": growth,
                "backoff_factor": backoff,
                "growth_interval": every,
            },
            "gradients": random_gradients(seed, overflows),
        }
        for growth, backoff, every, overflows, seed in TORCH_CASES
    ]
    answer = subprocess.run(
        [torch_python(), "-c", TORCH_SCALER],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return dict(zip(TORCH_CASES, json.loads(answer.stdout), strict=True))


@pytest.mark.parametrize("case", TORCH_CASES)
def test_the_scale_takes_pytorchs_path(case, pytorchs_paths):
    growth, backoff, every, overflows, seed = case
    step = stepping(
        wrapper(
            growth_factor=growth,
            backoff_factor=backoff,
            growth_steps=every,
            min_scale=1e-37,
            max_scale=3e38,
        )
    )
    path = [step(gradient) for gradient in random_gradients(seed, overflows)]
    assert path == pytorchs_paths[case]


def test_the_scale_never_falls_below_its_floor_and_recovers():
    optimizer = wrapper(growth_steps=1)
    step = stepping(optimizer)
    path = [step(False) for _ in range(200)]
    assert path[:2] == [2.0**14, 2.0**13]
    assert path[-1] == 2.0**-14
    assert step(True) == 2.0**-13
    assert np.isfinite(float(optimizer._trainable_variables[0]))


def test_the_scale_never_grows_beyond_its_ceiling():
    step = stepping(wrapper(growth_steps=1))
    path = [step(True) for _ in range(200)]
    assert path[0] == 2.0**16
    assert path[-1] == max(path) == 2.0**24


def test_hysteresis_waits_for_skips_in_a_row():
    step = stepping(wrapper(hysteresis=3, initial_scale=64.0))
    outcomes = [False, False, True, False, False, False, False, True, False]
    assert [step(finite) for finite in outcomes] == [64, 64, 64, 64, 64, 32, 16, 16, 16]


@pytest.mark.parametrize(("mode", "scale"), [("fixed", 128.0), ("none", 1.0)])
def test_other_modes_keep_their_scale_and_skip_all_the_same(mode, scale):
    optimizer = wrapper(mode=mode, initial_scale=128.0, growth_steps=1)
    step = stepping(optimizer)
    weight = optimizer._trainable_variables[0]
    assert [step(finite) for finite in (True, False, True)] == [scale] * 3
    assert float(weight) == pytest.approx(1.0 - 2 * 0.1 / scale)
    assert int(optimizer.iterations) == 2


@pytest.mark.parametrize("jit", [False, True])
def test_counters(jit):
    optimizer = wrapper(statistics_every=1)
    step = stepping(optimizer, jit=jit)
    variables = (
        optimizer.attempted_steps,
        optimizer.skipped_steps,
        optimizer.consecutive_skips,
        optimizer.max_consecutive_skips,
        optimizer.last_overflow_step,
        optimizer.finite,
    )
    seen = []
    for finite in (True, False, False, True, False):
        step(finite)
        seen.append([variable.numpy() for variable in variables])
    assert seen == [
        [1, 0, 0, 0, -1, True],
        [2, 1, 1, 1, 2, False],
        [3, 2, 2, 2, 3, False],
        [4, 2, 0, 2, 3, True],
        [5, 3, 1, 2, 5, False],
    ]


def test_telemetry_is_float32_scalars_of_the_last_step():
    optimizer = wrapper(mode="fixed", initial_scale=8.0, statistics_every=2)
    optimizer.scale_loss(tf.constant(2.5))
    step = stepping(optimizer)
    step(True)
    first = optimizer.telemetry()
    assert all(value.dtype == tf.float32 and value.shape == () for value in first.values())
    first = {name: float(value) for name, value in first.items()}
    assert first["loss"] == 2.5
    assert (first["scale"], first["finite"], first["global_norm"]) == (8.0, 1.0, 1.0 / 8)
    assert math.isnan(first["max_abs"])  # not measured at the first step of two
    step(False)
    second = {name: float(value) for name, value in optimizer.telemetry().items()}
    assert (second["finite"], second["skipped_steps"], second["consecutive_skips"]) == (0, 1, 1)
    assert second["max_abs"] == math.inf
    assert not math.isfinite(second["global_norm"])


def test_a_half_precision_loss_is_scaled_in_float32():
    optimizer = wrapper()
    scaled = optimizer.scale_loss(tf.constant(100.0, tf.float16))
    assert scaled.dtype == tf.float32
    assert float(scaled) == 100 * 2.0**15
    assert optimizer.scale_loss(tf.constant(1.0, tf.float64)).dtype == tf.float64


def test_float16_gradients_are_unscaled_in_float32():
    seen = []

    class Recorder(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            seen.extend(grads)
            super().apply(grads, trainable_variables)

    weight = keras.Variable(np.ones(1), dtype="float16")
    optimizer = LossScaleOptimizer(Recorder(0.1), initial_scale=2.0**15)
    optimizer.build([weight])
    optimizer.scale_loss(0.0)
    optimizer.apply([tf.constant([1e-3], tf.float16)], [weight])
    assert float(seen[0][0]) == pytest.approx(1e-3 / 2**15, rel=1e-3)


def test_clipping_and_weight_decay_act_on_unscaled_gradients():
    inner = {"learning_rate": 0.1, "global_clipnorm": 0.5, "weight_decay": 0.1}
    bare, wrapped = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    reference = keras.optimizers.SGD(**inner)
    reference.apply([tf.constant([3.0, 4.0])], [bare])
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(**inner), initial_scale=1024.0)
    optimizer.build([wrapped])
    optimizer.scale_loss(0.0)
    optimizer.apply([tf.constant([3.0, 4.0]) * 1024.0], [wrapped])
    np.testing.assert_array_equal(bare.numpy(), wrapped.numpy())


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("clipnorm", [0.5, 100.0])
def test_the_global_norm_that_is_clipped_is_that_of_float32_gradients(every, clipnorm):
    random = np.random.default_rng(0)
    shapes = [(5, 3), (7,), (2, 2, 2)]
    scale = 2.0**9
    inner = {"gradient_accumulation_steps": every} if every > 1 else {}
    optimizer = LossScaleOptimizer(
        keras.optimizers.SGD(1.0, global_clipnorm=clipnorm, **inner), initial_scale=scale
    )
    weights = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
    optimizer.build(weights)
    optimizer.scale_loss(0.0)
    expected = [np.zeros(shape) for shape in shapes]
    for _ in range(3):
        summed = [np.zeros(shape) for shape in shapes]
        for _ in range(every):
            # As a backward pass in float16 gives them: multiples of the scale, rounded.
            scaled = [(scale * random.normal(size=shape)).astype("float16") for shape in shapes]
            optimizer.apply([tf.constant(each) for each in scaled], weights)
            for total, each in zip(summed, scaled, strict=True):
                total += each.astype("float64") / scale / every
        norm = np.sqrt(sum((total**2).sum() for total in summed))
        for weight, total in zip(expected, summed, strict=True):
            weight -= total * min(1.0, clipnorm / norm)
    for weight, value in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=2e-6, atol=1e-6)


def test_sparse_and_absent_gradients():
    table, unused = keras.Variable(np.ones((4, 2), "float32")), keras.Variable(1.0)
    optimizer = wrapper([table, unused], mode="fixed", initial_scale=2.0)
    slices = tf.IndexedSlices(tf.constant([[2.0, 4.0]]), tf.constant([1]), tf.constant([4, 2]))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([slices, None], [table, unused])
    np.testing.assert_allclose(table.numpy()[:2], [[1, 1], [0.9, 0.8]], rtol=1e-6)
    bad = tf.IndexedSlices(slices.values * math.nan, slices.indices, slices.dense_shape)
    optimizer.apply([bad, None], [table, unused])
    assert int(optimizer.skipped_steps) == 1


class ForgetsToScale(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_a_train_step_that_does_not_scale_is_an_error():
    model = ForgetsToScale()
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, auto_scale_loss=False)
    batch = (tf.ones((2, 3)), tf.ones((2, 1)))
    model(batch[0])
    optimizer.build(model.trainable_variables)
    run = tf.function(guarded(model, model.train_step, tf.distribute.get_strategy()))
    with pytest.raises(ValueError, match="never calls self"):
        run(batch)


def test_guarded_wants_our_optimizer():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        guarded(model, model.train_step, tf.distribute.get_strategy())


def test_guarded_wants_built_metrics():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, "mse", metrics=["mae"], auto_scale_loss=False)
    optimizer.build(model.trainable_variables)
    run = tf.function(guarded(model, model.train_step, tf.distribute.get_strategy()))
    with pytest.raises(ValueError, match="build its metrics"):
        run((tf.ones((2, 2)), tf.ones((2, 1))))


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"mode": "dynamc"}, "loss_scale.mode"),
        ({"initial_scale": 0.0}, "loss_scale.initial_scale"),
        ({"initial_scale": math.nan}, "loss_scale.initial_scale"),
        ({"initial_scale": math.inf}, "loss_scale.initial_scale"),
        ({"initial_scale": 2.0**25}, "loss_scale.initial_scale"),
        ({"growth_steps": 0}, "loss_scale.growth_steps"),
        ({"growth_factor": 1.0}, "loss_scale.growth_factor"),
        ({"backoff_factor": 1.0}, "loss_scale.backoff_factor"),
        ({"min_scale": 0.0}, "loss_scale.min_scale"),
        ({"max_scale": math.inf}, "loss_scale.max_scale"),
        ({"hysteresis": 0}, "loss_scale.hysteresis"),
    ],
)
def test_settings_out_of_range(settings, where):
    with pytest.raises(ConfigurationError) as raised:
        LossScaleOptimizer(keras.optimizers.SGD(0.1), **settings)
    assert raised.value.where == where


def test_an_inner_optimizer_must_not_scale_by_itself():
    with pytest.raises(ConfigurationError, match="loss_scale_factor"):
        LossScaleOptimizer(keras.optimizers.Adam(loss_scale_factor=8.0))
    with pytest.raises(ConfigurationError, match="already scales"):
        LossScaleOptimizer(LossScaleOptimizer(keras.optimizers.SGD(0.1)))


def trained():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = LossScaleOptimizer(
        keras.optimizers.Adam(0.1), growth_steps=5, hysteresis=2, statistics_every=1
    )
    model.compile(optimizer, "mse", auto_scale_loss=False)
    optimizer.build(model.trainable_variables)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    for bad in (False, True, True, False):
        model.train_on_batch(x * (math.nan if bad else 1), y)
    assert float(optimizer.dynamic_scale) == 2.0**14
    return model, optimizer


def equal_state(ours, theirs):
    assert len(ours.variables) == len(theirs.variables)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_restored_from_a_keras_file(tmp_path):
    model, optimizer = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, LossScaleOptimizer)
    assert loaded.optimizer.get_config() == optimizer.get_config()
    equal_state(loaded.optimizer, optimizer)


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_restored_from_weights_and_checkpoints(tmp_path, kind):
    model, optimizer = trained()
    twin = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    twin.compile(
        LossScaleOptimizer.from_config(optimizer.get_config()), "mse", auto_scale_loss=False
    )
    twin.optimizer.build(twin.trainable_variables)
    if kind == "weights":
        model.save_weights(tmp_path / "model.weights.h5")
        twin.load_weights(tmp_path / "model.weights.h5")
    else:
        path = tf.train.Checkpoint(variables=optimizer.variables).write(str(tmp_path / "state"))
        tf.train.Checkpoint(variables=twin.optimizer.variables).read(path).assert_consumed()
    equal_state(twin.optimizer, optimizer)
