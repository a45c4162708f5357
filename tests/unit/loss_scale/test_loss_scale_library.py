"""The loss-scale wrapper without the runner: docs/library.md as it stands, and Keras's own."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.loss_scale import LossScaleOptimizer

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/library.md").read_text(), re.MULTILINE | re.DOTALL
)
EXECUTE = """
import functools, json, sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
Mirrored = tf.distribute.MirroredStrategy
tf.distribute.MirroredStrategy = functools.partial(Mirrored, ["CPU:0", "CPU:1"])
names, seen = {"__name__": "library"}, []
for path in sys.argv[1:]:
    exec(compile(open(path).read(), path, "exec"), names)
    optimizer, model = names["optimizer"], names["model"]
    metrics = model.get_metrics_result() if model.compiled else {}
    seen.append({
        "loss": float(names["loss"]),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "attempted": int(optimizer.attempted_steps.numpy()),
        "skipped": int(optimizer.skipped_steps.numpy()),
        "replicas": getattr(names.get("strategy"), "num_replicas_in_sync", 1),
        "finite": all(bool(np.isfinite(v.numpy()).all()) for v in model.variables),
        "compute": model.layers[0].compute_dtype,
    })

strategy, wrapper = names["strategy"], names["LossScaleOptimizer"]
with strategy.scope():
    late = wrapper(names["keras"].optimizers.SGD(0.1))
try:
    tf.function(lambda: strategy.run(lambda: late.scale_loss(tf.constant(1.0))))()
except ValueError as error:
    seen.append(str(error))
json.dump(seen, open("seen.json", "w"))
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """What was seen after each block of the page, and the folder in which they ran."""
    folder = tmp_path_factory.mktemp("library")
    paths = [folder / f"block_{index}.py" for index in range(len(BLOCKS))]
    for path, block in zip(paths, BLOCKS, strict=True):
        path.write_text(block)
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, *map(str, paths)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "seen.json").read_text()), folder


@pytest.mark.slow
def test_the_pages_blocks_run_and_learn(executed: tuple[list[Any], Path]) -> None:
    loop, devices, fit, guarded, saved, _ = executed[0]
    assert {each["compute"] for each in executed[0][:-1]} == {"float16"}
    assert [each["attempted"] for each in (loop, devices, fit, guarded)] == [40, 40, 40, 41]
    assert [each["skipped"] for each in (loop, devices, fit, guarded)] == [0, 0, 0, 1]
    assert devices["replicas"] == 2
    assert loop["loss"] < 0.5 > devices["loss"]  # log(4) = 1.39 at the start
    assert fit["metrics"]["accuracy"] > 0.8 < guarded["metrics"]["accuracy"]
    assert guarded["finite"]
    assert saved["skipped"] == 1


@pytest.mark.slow
def test_an_optimizer_must_be_built_before_replicas_use_it(
    executed: tuple[list[Any], Path],
) -> None:
    assert "in the strategy's scope" in executed[0][-1]


@pytest.mark.slow
def test_the_plain_file_names_nothing_of_ours(executed: tuple[list[Any], Path]) -> None:
    import zipfile

    def config(name: str) -> str:
        return zipfile.ZipFile(executed[1] / name).read("config.json").decode()

    assert "mpt" in config("model.keras")
    assert "mpt" not in config("plain.keras")


def test_keras_has_lost_what_the_page_says() -> None:
    for name in ("get_scaled_loss", "get_unscaled_gradients", "loss_scale"):
        assert not hasattr(keras.optimizers.LossScaleOptimizer, name)


X = np.random.default_rng(1).normal(size=(96, 8)).astype("float32")
Y = (X @ np.random.default_rng(2).normal(size=(8, 4))).argmax(axis=1)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# So high that the first steps overflow, and that it has to find its way down, and up again.
SCALE, GROWTH_STEPS, EPOCHS = 2.0**20, 4, 3


def network() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(16, activation="relu")
    return keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(4, dtype="float32")])


def ours() -> keras.Optimizer:
    inner = keras.optimizers.Adam(0.01)
    return LossScaleOptimizer(inner, initial_scale=SCALE, growth_steps=GROWTH_STEPS)


def kerass() -> keras.Optimizer:
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=SCALE, dynamic_growth_steps=GROWTH_STEPS
    )


def loop(optimizer: keras.Optimizer, kind: str) -> list[np.ndarray]:
    """A GradientTape loop over an optimizer that is not built; the weights after it."""
    model = network()
    variables = model.trainable_variables

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            scaled = optimizer.scale_loss(LOSS(y, model(x, training=True)))
        gradients = tape.gradient(scaled, variables)
        if kind == "eager":
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            optimizer.apply(gradients, variables)

    if kind != "eager":
        step = tf.function(step, jit_compile=kind == "xla")
    for _ in range(EPOCHS):
        for start in range(0, len(X), 16):
            step(tf.constant(X[start : start + 16]), tf.constant(Y[start : start + 16]))
    return model.get_weights()


def fit(optimizer: keras.Optimizer, **settings: Any) -> list[np.ndarray]:
    model = network()
    model.compile(optimizer, LOSS, **settings)
    assert model.optimizer is optimizer
    model.fit(X, Y, epochs=EPOCHS, batch_size=16, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        (loop, {"kind": "eager"}),
        (loop, {"kind": "traced"}),
        (fit, {}),
        pytest.param(loop, {"kind": "xla"}, marks=pytest.mark.slow),
        pytest.param(fit, {"run_eagerly": True}, marks=pytest.mark.slow),
        pytest.param(fit, {"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param(fit, {"steps_per_execution": 3}, marks=pytest.mark.slow),
    ],
)
def test_it_trains_as_kerass_own(run: Any, settings: dict[str, Any]) -> None:
    mine, theirs = ours(), kerass()
    weights, reference = run(mine, **settings), run(theirs, **settings)
    for a, b in zip(weights, reference, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(mine.dynamic_scale) == float(theirs.dynamic_scale)
    assert int(mine.iterations) == int(theirs.iterations)
    assert int(mine.attempted_steps) == 6 * EPOCHS
    assert 2 < int(mine.skipped_steps) < 4 * EPOCHS


def test_the_scale_does_not_stay_in_a_trace_of_its_own() -> None:
    """The gradients' trace is made before the optimizer is built, and outlives that scale."""
    optimizer, model = ours(), network()
    variables = model.trainable_variables

    @tf.function
    def gradients(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            scaled = optimizer.scale_loss(LOSS(y, model(x, training=True)))
        return tape.gradient(scaled, variables)

    for _ in range(EPOCHS):
        for start in range(0, len(X), 16):
            rows = slice(start, start + 16)
            optimizer.apply(gradients(tf.constant(X[rows]), tf.constant(Y[rows])), variables)
    for a, b in zip(model.get_weights(), loop(ours(), "traced"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fixed_scale_in_a_loop_of_ones_own() -> None:
    """Without its scale the gradients, near 2^-28, are zero in float16."""
    moved = {}
    for mode in ("fixed", "none"):
        model = network()
        optimizer = LossScaleOptimizer(
            keras.optimizers.SGD(2.0**22), mode=mode, initial_scale=2.0**22
        )
        kernel = model.layers[0].kernel
        before = kernel.numpy()
        with tf.GradientTape() as tape:
            scaled = optimizer.scale_loss(LOSS(Y, model(X, training=True)) * 2.0**-22)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(scaled, variables), variables)
        moved[mode] = np.abs(kernel.numpy() - before).max()
    assert moved["fixed"] > 1e-2
    assert moved["none"] == 0


def test_what_fit_does_not_protect() -> None:
    model = network()
    model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(), model])
    optimizer = ours()
    model.compile(optimizer, LOSS)
    broken = X.copy()
    broken[3] = math.nan
    history = model.fit(broken, Y, batch_size=16, shuffle=False, verbose=0).history
    assert math.isnan(history["loss"][-1])
    assert np.isnan(model.layers[0].moving_mean.numpy()).all()
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)


@pytest.mark.parametrize("traced", [False, True])
def test_a_loss_that_is_not_one_number(traced: bool) -> None:
    optimizer = ours()
    call = tf.function(optimizer.scale_loss) if traced else optimizer.scale_loss
    with pytest.raises(ValueError, match="takes one number"):
        call(tf.ones(3))
