"""Fused updates against Keras's, fallbacks, schedules against NumPy, accumulation and saving."""

import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import optim
from mpt.errors import ConfigurationError
from mpt.loss_scale import LossScaleOptimizer
from mpt.optim import schedules

SHAPES = [(17, 5), (23,), (3, 3, 2, 4)]
EXACT = {"beta_1": 0.875, "beta_2": 1 - 2.0**-10}


def gradients(steps, seed=0):
    generator = np.random.default_rng(seed)
    return [[generator.normal(size=s).astype("float32") for s in SHAPES] for _ in range(steps)]


def trained(optimizer, steps=60, *, dtype="float32", jit=False, shapes=SHAPES):
    """Weights and slots after `steps` of the same random gradients."""
    generator = np.random.default_rng(1)
    variables = [
        keras.Variable(generator.normal(size=shape).astype("float32"), dtype=dtype)
        for shape in shapes
    ]
    optimizer.build(variables)

    @tf.function(jit_compile=jit)
    def step(*values):
        optimizer.apply([tf.cast(value, dtype) for value in values], variables)

    for values in gradients(steps):
        step(*map(tf.constant, values[: len(shapes)]))
    finals = [*variables, *optimizer.variables]
    return [variable.numpy().astype("float64") for variable in finals]


def built(name, *, plain=False, **arguments):
    """Our optimizer, or the Keras one that it stands for; all variables decay in both."""
    arguments = {"weight_decay_exclude": (), **arguments}
    optimizer = optim.build(name=name, learning_rate=0.01, total_steps=100, **arguments)
    return type(optim.plain(optimizer)).from_config(optimizer.get_config()) if plain else optimizer


CASES = {
    "adam": ("adam", EXACT),
    "adamw": ("adamw", {**EXACT, "weight_decay": 0.01}),
    "momentum": ("sgd", {"momentum": 0.875}),
    "nesterov": ("sgd", {"momentum": 0.875, "nesterov": True}),
    "sgd": ("sgd", {}),
    "decay": ("adam", {**EXACT, "weight_decay": 0.1}),
    "clipped": ("adam", {**EXACT, "global_clipnorm": 0.5}),
    "average": ("adam", {**EXACT, "ema": True, "ema_momentum": 0.75}),
    "accumulated": ("adam", {**EXACT, "gradient_accumulation_steps": 4}),
    "schedule": ("adam", {**EXACT, "schedule": {"name": "cosine", "warmup_steps": 5}}),
    "amsgrad": ("adam", {**EXACT, "amsgrad": True}),
    "lamb": ("lamb", {}),
    "lion": ("lion", {}),
    "rmsprop": ("RMSprop", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_updates_equal_kerass_bit_for_bit(case):
    name, arguments = CASES[case]
    ours = trained(built(name, **arguments))
    theirs = trained(built(name, plain=True, **arguments))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("jit", [False, True])
def test_updates_with_default_settings_differ_from_kerass_by_rounding_alone(name, jit):
    arguments = {"momentum": 0.9} if name == "sgd" else {}
    ours = trained(built(name, **arguments), 100, jit=jit)[: len(SHAPES)]
    theirs = trained(built(name, plain=True, **arguments), 100)[: len(SHAPES)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def kernels(optimizer, variable, gradient):
    optimizer.build([variable])
    graph = tf.function(lambda: optimizer.apply([gradient], [variable])).get_concrete_function()
    return {node.op for node in graph.graph.as_graph_def().node}


@pytest.mark.parametrize(
    ("name", "arguments", "kernel"),
    [
        ("adam", {}, "ResourceApplyAdam"),
        ("adamw", {}, "ResourceApplyAdam"),
        ("sgd", {"momentum": 0.9}, "ResourceApplyKerasMomentum"),
        ("sgd", {}, "ResourceApplyGradientDescent"),
    ],
)
def test_the_fused_kernel_is_used_and_left_where_it_does_not_fit(name, arguments, kernel):
    dense, sparse = tf.ones((3, 2)), tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), [3, 2])
    weight = np.ones((3, 2), "float32")
    assert kernel in kernels(built(name, **arguments), keras.Variable(weight), dense)
    assert kernel not in kernels(built(name, **arguments), keras.Variable(weight), sparse)
    for dtype in ("float16", "bfloat16", "float64"):
        variable = keras.Variable(weight, dtype=dtype)
        assert kernel not in kernels(built(name, **arguments), variable, tf.cast(dense, dtype))


def test_amsgrad_is_left_to_keras():
    found = kernels(built("adam", amsgrad=True), keras.Variable(np.ones(3, "float32")), tf.ones(3))
    assert "ResourceApplyAdam" not in found


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_sparse_gradients_update_as_keras_does(name):
    weights = []
    for plain in (False, True):
        variable = keras.Variable(np.ones((4, 2), "float32"))
        optimizer = built(name, plain=plain)
        optimizer.build([variable])
        for row in (1, 3, 1):
            values = tf.constant([[1.0, 2.0]])
            slices = tf.IndexedSlices(values, tf.constant([row]), tf.constant([4, 2]))
            optimizer.apply([slices], [variable])
        weights.append(variable.numpy())
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adam_trains_half_precision_weights(dtype, amsgrad):
    """Small gradients: Keras's float16 second moment is 0, and its update far too large."""
    scale = 1e-3
    variable = keras.Variable(np.zeros(4), dtype=dtype)
    optimizer = built("adam", amsgrad=amsgrad)
    optimizer.build([variable])
    assert {v.dtype for v in optimizer.variables if "velocity" in v.path} == {"float32"}
    for _ in range(5):
        optimizer.apply([tf.constant([scale, -scale, 0.0, 2 * scale], dtype)], [variable])
    np.testing.assert_allclose(
        variable.numpy().astype("float64"), [-0.05, 0.05, 0.0, -0.05], rtol=0.02
    )


def test_an_epsilon_that_float16_weights_do_not_resolve_is_an_error():
    weight = keras.Variable(np.ones(2), dtype="float16")
    with pytest.raises(ConfigurationError, match="vanishes") as raised:
        built("rmsprop").build([weight])
    assert raised.value.where == "optimizer.epsilon"
    built("rmsprop", epsilon=1e-4).build([weight])
    built("adam").build([weight])
    built("rmsprop").build([keras.Variable(np.ones(2), dtype="bfloat16")])


def test_accumulation_over_replicas_is_an_error(monkeypatch):
    optimizer = built("adam", gradient_accumulation_steps=2)
    two = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setitem(optimizer.__dict__, "_distribution_strategy", two)
    with pytest.raises(ConfigurationError, match="2 replicas") as raised:
        optimizer.build([keras.Variable(1.0)])
    assert raised.value.where == "optimizer.gradient_accumulation_steps"


def rates(schedule, *, learning_rate=0.5, total_steps=20, steps=22):
    rate = schedules.build(schedule, learning_rate=learning_rate, total_steps=total_steps)
    return np.array([float(rate(step)) for step in range(steps)])


STEPS = np.arange(22)


def test_constant_is_a_plain_number_that_callbacks_can_set():
    optimizer = built("adam", schedule={"name": "constant", "warmup_steps": 0})
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    optimizer.learning_rate = 0.5
    assert float(optimizer.learning_rate) == 0.5


def test_constant_with_warm_up():
    expected = 0.5 * np.minimum(STEPS / 8, 1)
    np.testing.assert_allclose(rates({"name": "constant", "warmup_steps": 8}), expected, rtol=1e-6)


def test_cosine():
    done = np.minimum(STEPS / 20, 1)
    expected = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * done)))
    np.testing.assert_allclose(rates({"name": "cosine", "alpha": 0.1}), expected, rtol=1e-5)


def test_warmup_cosine_ends_at_the_last_step():
    done = np.clip((STEPS - 5) / 15, 0, 1)
    decayed = 0.5 * 0.5 * (1 + np.cos(np.pi * done))
    expected = np.where(STEPS < 5, 0.5 * STEPS / 5, decayed)
    found = rates({"name": "warmup_cosine", "warmup_steps": 5})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found[20] == pytest.approx(0, abs=1e-7)


def test_piecewise():
    expected = np.select([STEPS <= 3, STEPS <= 10], [0.5, 0.05], 0.005)
    pieces = {"name": "piecewise", "boundaries": [3, 10]}
    np.testing.assert_allclose(rates({**pieces, "factors": [1, 0.1, 0.01]}), expected, rtol=1e-6)
    np.testing.assert_allclose(rates({**pieces, "values": [0.5, 0.05, 0.005]}), expected, rtol=1e-6)


def used_rates(optimizer, steps):
    """The learning rate of each step that moved a weight, with gradients of 1."""
    weight = keras.Variable(0.0)
    optimizer.build([weight])
    found = []
    for _ in range(steps):
        before = float(weight)
        optimizer.apply([tf.constant(1.0)], [weight])
        found.append(before - float(weight))
    return found


def test_schedules_count_optimizer_steps_not_microbatches():
    schedule = {"name": "piecewise", "boundaries": [0, 1], "values": [0.5, 0.25, 0.125]}
    settings = {"name": "sgd", "learning_rate": 1.0, "schedule": schedule}
    optimizer = optim.build(**settings, total_steps=12, gradient_accumulation_steps=4)
    found = used_rates(optimizer, 12)
    assert [rate for rate in found if rate] == [0.5, 0.25, 0.125]
    assert [i for i, rate in enumerate(found) if rate] == [3, 7, 11]


def test_a_schedule_spans_the_optimizer_steps_of_the_run():
    optimizer = built("sgd", schedule={"name": "cosine"}, gradient_accumulation_steps=4)
    assert optimizer._learning_rate.decay_steps == 25


def test_a_plain_optimizer_goes_on_at_the_same_pace():
    schedule = {"name": "piecewise", "boundaries": [0, 1], "values": [0.5, 0.25, 0.125]}
    ours = optim.build(
        name="sgd",
        learning_rate=1.0,
        schedule=schedule,
        total_steps=12,
        gradient_accumulation_steps=4,
    )
    theirs = keras.optimizers.SGD.from_config(optim.plain(ours).get_config())
    assert used_rates(ours, 12) == used_rates(theirs, 12)


def test_a_moving_average_counts_optimizer_steps():
    averages = []
    for every in (1, 4):
        weight = keras.Variable(0.0)
        optimizer = optim.build(
            name="sgd",
            learning_rate=1.0,
            total_steps=100,
            ema=True,
            ema_momentum=0.5,
            gradient_accumulation_steps=every,
        )
        optimizer.build([weight])
        for _ in range(3 * every):
            optimizer.apply([tf.constant(1.0)], [weight])
        averages.append(float(optimizer._model_variables_moving_average[0]))
        optimizer.finalize_variable_values([weight])
        assert float(weight) == averages[-1]
    assert averages[0] == averages[1] == -(0.25 * 1 + 0.25 * 2 + 0.5 * 3)


def stepped(name, dtype, mode, every):
    """Half-precision weights after `every` microbatches, whose gradients are all ones."""
    epsilon = {} if name == "sgd" else {"epsilon": 1e-3}
    inner = built(name, gradient_accumulation_steps=every, **epsilon)
    optimizer = LossScaleOptimizer(inner, mode=mode, initial_scale=8.0, compute_dtype=dtype)
    weight = keras.Variable(np.float32([1, 2]), dtype=dtype)
    optimizer.build([weight])
    scale = 1.0 if mode == "none" else 8.0

    @tf.function
    def step():
        optimizer.scale_loss(tf.constant(0.0))
        optimizer.apply([tf.constant([scale, -scale], dtype)], [weight])

    for _ in range(every):
        step()
    return weight.numpy().astype("float32").tolist()


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", ["none", "dynamic"])
def test_half_precision_weights_accumulate_in_float32(name, dtype, mode):
    """400 steps as one with the mean gradient; in bfloat16 a sum of ones would end at 256."""
    assert stepped(name, dtype, mode, 400) == stepped(name, dtype, mode, 1) != [1, 2]


WITHOUT_US = """
import sys
import keras, numpy as np
assert not any(name == "mpt" or name.startswith("mpt.") for name in sys.modules)
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
np.testing.assert_array_equal(model.predict(data["x"], verbose=0), data["y"])
optimizer = model.optimizer
assert type(optimizer) is keras.optimizers.Adam, type(optimizer)
assert int(optimizer.iterations) == 3
for i, variable in enumerate(optimizer.variables):
    np.testing.assert_array_equal(variable.numpy(), data[f"slot{i}"])
model.fit(data["x"], data["y"], verbose=0)
"""


def test_a_saved_model_loads_in_plain_keras_with_its_optimizer(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    schedule = {"name": "warmup_cosine", "warmup_steps": 3}
    inner = built("adam", schedule=schedule)
    optimizer = LossScaleOptimizer(inner)
    model.compile(optimizer, "mse", auto_scale_loss=False)
    optimizer.build(model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    for _ in range(3):
        model.train_on_batch(x, np.ones((4, 2)))
    with optim.unwrapped(model):
        assert type(model.optimizer) is keras.optimizers.Adam
        model.save(tmp_path / "model.keras")
    assert model.optimizer is optimizer
    slots = {f"slot{i}": v.numpy() for i, v in enumerate(inner.variables)}
    np.savez(tmp_path / "data.npz", x=x, y=model.predict(x, verbose=0), **slots)
    command = [sys.executable, "-I", "-c", WITHOUT_US, "model.keras", "data.npz"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_plain_shares_its_variables_and_leaves_other_optimizers_alone():
    ours = built("adamw")
    weight = keras.Variable(1.0)
    ours.build([weight])
    twin = optim.plain(LossScaleOptimizer(ours))
    assert type(twin) is keras.optimizers.AdamW
    assert all(a is b for a, b in zip(twin.variables, ours.variables, strict=True))
    foreign = keras.optimizers.Adam()
    assert optim.plain(foreign) is foreign


@pytest.mark.parametrize("name", ["sgd", "AdamW", "lamb", "Lion", "RMSprop", "muon", "Ftrl"])
def test_every_optimizer_of_keras_can_be_built(name):
    optimizer = built(name, weight_decay=0.01)
    assert type(optim.plain(optimizer)).__module__.startswith("keras.")
    assert type(optim.plain(optimizer)).__name__.lower() == name.lower()
    assert optimizer.weight_decay == 0.01


def test_no_decay_and_whole_numbers():
    assert built("adam", weight_decay=0).weight_decay is None
    assert built("adamw", weight_decay=0).weight_decay == 0.0
    assert built("sgd", momentum=0).momentum == 0.0
    assert built("adam").gradient_accumulation_steps is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"name": "adan"}, "optimizer.name"),
        ({"name": 3}, "optimizer.name"),
        ({"learning_rate": -0.1}, "optimizer.learning_rate"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate"),
        ({"learning_rate": "fast"}, "optimizer.learning_rate"),
        ({"weight_decay": -1}, "optimizer.weight_decay"),
        ({"global_clipnorm": 0}, "optimizer.global_clipnorm"),
        ({"gradient_accumulation_steps": 0}, "optimizer.gradient_accumulation_steps"),
        ({"gradient_accumulation_steps": 2.5}, "optimizer.gradient_accumulation_steps"),
        ({"beta1": 0.9}, "optimizer.beta1"),
        ({"beta_1": "high"}, "optimizer.beta_1"),
        ({"amsgrad": 1}, "optimizer.amsgrad"),
        ({"loss_scale_factor": 8.0}, "optimizer.loss_scale_factor"),
        ({"use_ema": True}, "optimizer.use_ema"),
        ({"clipnorm": 1.0, "global_clipnorm": 1.0}, "optimizer"),
        (
            {"ema": True, "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 2},
            "optimizer.ema_overwrite_frequency",
        ),
        ({"schedule": {"name": "cosin"}}, "optimizer.schedule.name"),
        ({"schedule": {"name": "cosine", "decay": 2}}, "optimizer.schedule.decay"),
        ({"schedule": {"name": "cosine", "alpha": 2}}, "optimizer.schedule.alpha"),
        ({"schedule": {"name": "cosine", "warmup_steps": -1}}, "optimizer.schedule.warmup_steps"),
        ({"schedule": {"name": "cosine", "warmup_steps": 1.5}}, "optimizer.schedule.warmup_steps"),
        ({"schedule": {"name": "cosine", "warmup_steps": 100}}, "optimizer.schedule.warmup_steps"),
        ({"schedule": {"name": "warmup_cosine"}}, "optimizer.schedule.warmup_steps"),
        ({"schedule": {"name": "piecewise"}}, "optimizer.schedule.boundaries"),
        (
            {"schedule": {"name": "piecewise", "boundaries": [5, 3], "values": [1, 2, 3]}},
            "optimizer.schedule.boundaries",
        ),
        (
            {"schedule": {"name": "piecewise", "boundaries": [5], "values": [1, 2, 3]}},
            "optimizer.schedule.values",
        ),
        (
            {"schedule": {"name": "piecewise", "boundaries": [5]}},
            "optimizer.schedule.values",
        ),
    ],
)
def test_mistakes_name_their_key(change, where):
    given = {"name": "adam", "learning_rate": 0.1, "total_steps": 100, **change}
    with pytest.raises(ConfigurationError) as raised:
        optim.build(**given)
    assert raised.value.where == where


def test_the_nearest_name_is_suggested():
    with pytest.raises(ConfigurationError, match="did you mean 'adamw'"):
        optim.build(name="adamww", learning_rate=0.1, total_steps=1)
    with pytest.raises(ConfigurationError, match="did you mean 'beta_1'"):
        optim.build(name="adam", learning_rate=0.1, total_steps=1, beta1=0.5)
