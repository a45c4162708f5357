"""Which step is captured, and that it is the step as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from planted import SCALE, Planted, planted_model

from mpt.loss_scale import LossScaleOptimizer, guarded
from mpt.numerics import Capture


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "xla"])
def fixed(request):
    return planted_model("functional", jit=request.param)


@pytest.fixture(scope="module")
def dynamic():
    return Planted("functional", mode="dynamic", most_skips=4)


def nan_in(row, x):
    bad = x.copy()
    bad[row, 1] = np.nan
    return bad


def test_clean_steps_are_not_captured(fixed):
    assert fixed.restart().run(*[(fixed.x, fixed.y)] * 3) is None
    assert fixed.capture.telemetry()["captured"].numpy() == 0


def test_the_step_is_captured_as_it_was_before_it_among_several_in_one_call(fixed):
    clean, bad = (fixed.x, fixed.y), (nan_in(2, fixed.x), fixed.y * 2)
    fixed.restart().run(clean, clean)
    before = fixed.state()
    fixed.restart()
    captured = fixed.run(clean, clean, bad, clean, clean)
    assert (captured.step, captured.scale, captured.applied) == (3, SCALE, False)
    assert not np.isfinite(captured.loss)  # NaN, but inf where a kernel passes over NaN
    np.testing.assert_array_equal(captured.batch[0], bad[0])
    np.testing.assert_array_equal(captured.batch[1], bad[1])
    for kept, expected, now in zip(captured.state, before, fixed.state(), strict=True):
        np.testing.assert_array_equal(kept, expected)
        assert not np.array_equal(kept, now), "two more steps were taken since"
    assert fixed.capture.telemetry()["captured"].numpy() == 1


def test_the_first_such_step_is_kept_until_it_is_rearmed(fixed):
    bad = (nan_in(1, fixed.x), fixed.y)
    assert fixed.restart().run((fixed.x, fixed.y), bad, bad).step == 2
    assert fixed.run(bad).step == 2
    fixed.capture.rearm()
    assert fixed.capture.read() is None
    assert fixed.run((fixed.x, fixed.y), bad).step == 6


def test_a_loss_that_is_not_finite_is_captured_though_the_step_was_applied():
    x, y = np.ones((2, 1), "float32"), np.ones((2, 1), "float32")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="dynamic")

    def infinite(targets, predictions):
        return keras.ops.mean(predictions) + 1.0 / keras.ops.sum(targets - 1.0)

    model.compile(optimizer, infinite, auto_scale_loss=False)
    model._symbolic_build(data_batch=(x, y))
    optimizer.build(model.trainable_variables)
    spec = (tf.TensorSpec((2, 1)), tf.TensorSpec((2, 1)))
    capture = Capture(model, tf.distribute.get_strategy(), spec, 50)
    step = guarded(model, model.train_step, tf.distribute.get_strategy())
    tf.function(capture.around(step), autograph=False)((x, y))
    captured = capture.read()
    assert captured.applied
    assert np.isinf(captured.loss)


def overflow(planted):
    """A scale at which the gradients overflow float16 though the loss is finite."""
    planted.restart()
    planted.optimizer.dynamic_scale.assign(2.0**24)
    return planted


def test_an_overflow_that_a_dynamic_scale_handles_is_only_counted(dynamic):
    assert overflow(dynamic).run(*[(dynamic.x, dynamic.y)] * 3) is None
    assert int(dynamic.optimizer.skipped_steps) == 3


def test_the_last_of_too_many_skips_in_a_row_is_captured(dynamic):
    captured = overflow(dynamic).run(*[(dynamic.x, dynamic.y)] * 6)
    assert (captured.step, captured.scale) == (4, 2.0**21)


def test_an_overflow_at_the_scales_floor_is_captured(dynamic):
    dynamic.restart().overflow_backward()
    captured = dynamic.run()
    assert (captured.step, captured.scale) == (1, SCALE)
    assert dynamic.optimizer.min_scale == SCALE
    assert np.isfinite(captured.loss)


def test_a_loss_that_no_scale_helps_is_captured_under_a_dynamic_scale(dynamic):
    assert dynamic.restart().run((nan_in(0, dynamic.x), dynamic.y)).step == 1


def test_an_overflow_at_a_constant_scale_is_captured(fixed):
    captured = overflow(fixed).run()
    assert (captured.step, captured.scale) == (1, 2.0**24)
    assert np.isfinite(captured.loss)


def test_batches_of_any_structure_and_dtype_come_back():
    inputs = {
        "n": keras.Input((2,), name="n"),
        "k": keras.Input((), dtype="int32", name="k"),
    }
    embedded = keras.layers.Embedding(4, 2)(inputs["k"])
    x = keras.layers.Dense(1)(keras.layers.Add()([inputs["n"], embedded]))
    model = keras.Model(inputs, x)
    optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="none")
    model.compile(optimizer, "mse", auto_scale_loss=False)
    data = tf.data.Dataset.from_tensor_slices(
        (
            {"n": np.full((5, 2), np.inf, "float32"), "k": np.arange(5, dtype="int32") % 4},
            np.ones((5, 1), "float32"),
            np.arange(5.0, dtype="float32"),
        )
    ).batch(3)
    batch = next(iter(data))
    model._symbolic_build(data_batch=batch)
    optimizer.build(model.trainable_variables)
    capture = Capture(model, tf.distribute.get_strategy(), data.element_spec, 50)
    step = guarded(model, model.train_step, tf.distribute.get_strategy())
    run = tf.function(capture.around(step), autograph=False, reduce_retracing=True)
    for wanted in data:  # the second is smaller
        run(wanted)
        captured = capture.read().batch
        tf.nest.map_structure(np.testing.assert_array_equal, captured, wanted)
        capture.rearm()
