"""A batch that is skipped might as well never have been there."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import optim
from mpt.loss_scale import LossScaleOptimizer, guarded

ROWS, FEATURES, CLASSES, GOOD = 8, 6, 3, 15
BAD = GOOD  # its place among the batches
WITH = [*range(3), BAD, *range(3, GOOD)]
WITHOUT = list(range(GOOD))


class Training:
    """A tiny model with everything that a step changes, and calls of any number of steps."""

    def __init__(self, *, policy="float32", jit=False, bad=math.nan, inner="adam", **scale):
        keras.utils.set_random_seed(7)
        keras.config.set_dtype_policy(policy)
        self.model = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(8, name="first"),
                keras.layers.BatchNormalization(name="normalization"),
                keras.layers.Activation("relu"),
                keras.layers.Dropout(0.3, name="dropout"),
                keras.layers.Dense(CLASSES, name="head", dtype="float32"),
            ],
            name="model",
        )
        self.inner = optim.build(name=inner, learning_rate=0.01, total_steps=100)
        self.optimizer = LossScaleOptimizer(self.inner, statistics_every=2, **scale)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(self.optimizer, loss, metrics=["accuracy"], auto_scale_loss=False)
        generator = np.random.default_rng(0)
        x = generator.normal(size=(GOOD + 1, ROWS, FEATURES)).astype("float32")
        x[BAD, ROWS // 2, 1] = bad
        self.x = tf.constant(x)
        self.y = tf.constant(generator.integers(0, CLASSES, (GOOD + 1, ROWS)))
        self.model._symbolic_build(data_batch=(self.x[0], self.y[0]))
        self.optimizer.build(self.model.trainable_variables)
        step = tf.function(self.model.train_step, jit_compile=True) if jit else None
        step = step or self.model.train_step
        run = guarded(self.model, step, tf.distribute.get_strategy())

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
        def call(places):
            for place in places:
                run((self.x[place], self.y[place]))

        self.call = call
        self.variables = [
            *self.model.variables,
            *self.model.metrics_variables,
            *self.optimizer.variables,
        ]
        self.start = [variable.numpy() for variable in self.variables]

    def restart(self):
        for variable, value in zip(self.variables, self.start, strict=True):
            variable.assign(value)
        return self

    def run(self, places, per_call):
        for start in range(0, len(places), per_call):
            self.call(tf.constant(places[start : start + per_call], tf.int64))
        return self

    def state(self):
        """Weights, statistics, seeds, metrics, slots and iterations."""
        return {
            f"{kind} {i} {variable.name}": variable.numpy()
            for kind, variables in (
                ("model", self.model.variables),
                ("metrics", self.model.metrics_variables),
                ("slots", self.inner.variables),
            )
            for i, variable in enumerate(variables)
        }


def differing(a, b):
    assert a.keys() == b.keys()
    return {key for key in a if not np.array_equal(a[key], b[key])}


JIT = [
    pytest.param(False, id="plain"),
    pytest.param(True, id="xla", marks=pytest.mark.slow),
]
SCALES = [
    pytest.param({"mode": "none"}, id="none"),
    pytest.param({"mode": "fixed", "initial_scale": 1.0}, id="fixed-1"),
    pytest.param({"mode": "fixed", "initial_scale": 1000.0}, id="fixed-1000"),
]


def check_the_bad_batch_leaves_no_trace(training):
    expected = training.run(WITHOUT, 1).state()
    assert int(training.optimizer.skipped_steps) == 0
    for per_call in (1, 8):
        training.restart().run(WITH, per_call)
        assert differing(expected, training.state()) == set()
        assert int(training.optimizer.skipped_steps) == 1
        assert int(training.optimizer.last_overflow_step) == 4
        assert int(training.inner.iterations) == GOOD


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("scale", SCALES)
def test_training_ends_as_if_the_nan_batch_had_not_been_there(scale, jit):
    check_the_bad_batch_leaves_no_trace(Training(jit=jit, **scale))


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize(
    ("policy", "bad"),
    [
        ("mixed_float16", 1e6),  # finite in the data, infinite once cast
        ("mixed_bfloat16", math.inf),
    ],
)
def test_so_it_is_in_mixed_precision(policy, bad, jit):
    setting = {"policy": policy, "jit": jit, "bad": bad, "mode": "fixed", "initial_scale": 64.0}
    check_the_bad_batch_leaves_no_trace(Training(**setting))


@pytest.mark.parametrize(
    ("mode", "inner"), [("dynamic", "adam"), ("fixed", "sgd"), ("none", "lion")]
)
def test_a_skipped_step_changes_nothing_and_a_clean_one_everything(mode, inner):
    training = Training(mode=mode, inner=inner).run([0], 1)
    before = training.state()
    training.run([BAD], 1)
    assert not training.optimizer.finite.numpy()
    assert math.isnan(float(training.optimizer.batch_loss))
    assert differing(before, training.state()) == set()
    training.run([1], 1)
    unchanged = before.keys() - differing(before, training.state())
    assert all("learning_rate" in key for key in unchanged), unchanged


def test_dynamic_scaling_has_its_own_path():
    """The NaN batch halves the scale, and that alone: the run is otherwise the one without it."""
    setting = {"policy": "mixed_float16", "mode": "dynamic", "initial_scale": 2.0**12}
    bad = Training(**setting, growth_steps=5)
    path = []
    for place in WITH:
        bad.run([place], 1)
        path.append(math.log2(float(bad.optimizer.dynamic_scale)))
    assert path == [12, 12, 12, 11, 11, 11, 11, 11, 12, 12, 12, 12, 12, 13, 13, 13]
    good = Training(**setting, growth_steps=5).run(WITHOUT[:3], 1)
    good.optimizer.dynamic_scale.assign(2.0**11)
    good.optimizer.step_counter.assign(0)
    good.run(WITHOUT[3:], 1)
    assert differing(bad.state(), good.state()) == set()


def test_only_nan_batches_leave_the_model_and_a_usable_scale():
    training = Training(policy="mixed_float16", mode="dynamic", growth_steps=2)
    before = training.state()
    training.run([BAD] * 160, 32)
    assert differing(before, training.state()) == set()
    assert float(training.optimizer.dynamic_scale) == 2.0**-14
    assert int(training.optimizer.max_consecutive_skips) == 160
    training.run(WITHOUT, 8)
    assert all(np.isfinite(value).all() for value in training.state().values())
    assert int(training.inner.iterations) == GOOD
    assert float(training.optimizer.dynamic_scale) == 2.0**-7


def mirrored(mode):
    script = Path(__file__).with_name("mirrored_training.py")
    done = subprocess.run(
        [sys.executable, script, mode],
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fixed", "none", "dynamic"])
def test_two_replicas_take_the_same_answer_whoever_had_the_nan(mode):
    result = mirrored(mode)
    for half in ("first", "second", "both"):
        assert result[half]["state"] == result["clean"]["state"]
        steps = result[half]["telemetry"]
        assert [step["finite"] for step in steps] == [1, 0, 1, 1, 1]
        assert [math.isnan(step["loss"]) for step in steps] == [False, True, *[False] * 3]
        scales = [4, 2, 2, 2, 2] if mode == "dynamic" else [1 if mode == "none" else 4] * 5
        assert [step["scale"] for step in steps] == scales
    weights = result["clean"]["state"]["weights"]
    assert all(math.isfinite(value) for part in weights for value in part)

    # The gradient is summed over the replicas once: the update is that of one device.
    alone, both = result["alone"], result["mirrored"]
    for kind in ("weights", "slots"):
        for i, part in enumerate(alone["state"][kind]):
            for replica in (0, 1):
                np.testing.assert_allclose(both["state"][kind][2 * i + replica], part, rtol=1e-4)
    # A replica takes the scales that fit the other's numbers too: those of the whole batch.
    own, of_all = (result[f"{name}_float8"]["state"]["weights"] for name in ("alone", "mirrored"))
    assert 1024 in map(len, own)
    for i, part in enumerate(own):
        assert of_all[2 * i] == of_all[2 * i + 1]
        np.testing.assert_allclose(of_all[2 * i], part, rtol=0.05, atol=1e-3)

    for mine, its in zip(both["telemetry"], alone["telemetry"], strict=True):
        for key in ("loss", "global_norm", "max_abs"):
            assert mine[key] == pytest.approx(its[key], rel=1e-4)
