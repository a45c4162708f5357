"""The device loop against Keras's own `fit`, and against itself in other groupings."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.loop import EvaluationLoop, TrainLoop, metric_values
from mpt.loss_scale import LossScaleOptimizer, guarded
from mpt.replicas import iterate

STEPS = 12


def dataset(repeat=True):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype("float32")
    y = rng.integers(0, 3, 40).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(10, drop_remainder=True)
    return data.repeat() if repeat else data


def compiled(optimizer, dropout=0.3):
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        auto_scale_loss=False,
        jit_compile=False,
    )
    return model


def make_loop(rows=STEPS, jit=False, dropout=0.3):
    model = compiled(LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="none"), dropout)
    model._symbolic_build(data_batch=next(iter(dataset())))
    strategy = tf.distribute.get_strategy()
    step = tf.function(model.train_step, jit_compile=True) if jit else model.train_step
    loop = TrainLoop(
        guarded(model, step, strategy),
        model.optimizer.telemetry,
        iterate(dataset(), strategy),
        rows,
    )
    return model, loop


def weights(model):
    return [w.numpy() for w in model.variables]


def test_the_loop_trains_as_fit_does():
    # Not to the bit: Grappler fuses the two graphs differently.
    theirs = compiled(keras.optimizers.SGD(0.1))
    theirs.fit(dataset(), steps_per_epoch=STEPS, epochs=1, shuffle=False, verbose=0)
    ours, loop = make_loop()
    loop.run(STEPS)
    for a, b in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert metric_values(ours) == pytest.approx(metric_values(theirs), rel=1e-6)


@pytest.mark.parametrize("groups", [[1] * STEPS, [5, 7], [8, 1, 3]])
def test_grouping_changes_no_bit(groups):
    one, whole = make_loop()
    whole.run(STEPS)
    other, grouped = make_loop()
    for count in groups:
        grouped.run(count)
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
    first, second = whole.drain(), grouped.drain()
    np.testing.assert_array_equal(first["loss"], second["loss"])


def test_every_grouping_uses_one_trace():
    _, loop = make_loop()
    for count in (1, 4, 2, 5):
        loop.run(count)
    assert loop._steps.experimental_get_tracing_count() == 1


def test_a_row_a_step_in_order_across_the_ring_s_end():
    _, loop = make_loop(rows=4)
    losses = []
    for count in (3, 4, 2):
        loop.run(count)
        rows = loop.drain()
        assert all(len(values) == count for values in rows.values())
        assert (rows["data_wait"] >= 0).all()
        assert (rows["data_wait"] < 5).all()
        losses += rows["loss"].tolist()
    _, again = make_loop(rows=9)
    again.run(9)
    assert losses == again.drain()["loss"].tolist()
    assert loop.drain()["loss"].size == 0


def test_rows_that_would_be_overwritten_unseen_are_an_error():
    _, loop = make_loop(rows=2)
    loop.run(3)
    with pytest.raises(AssertionError):
        loop.drain()


def test_a_call_that_is_halted_ends_after_its_step_and_one_after_it_does_one():
    _, undisturbed = make_loop(rows=100)
    undisturbed.run(100)
    _, loop = make_loop(rows=100)
    threading.Timer(0.2, loop.halt).start()
    done = loop.run(10**9)
    assert 0 < done < 10**6
    assert (loop.run(5), loop.run(1)) == (1, 1)
    loop.wait()
    _, loop = make_loop(rows=100)
    loop.halt()
    assert [loop.run(7) for _ in range(3)] == [1, 1, 1]
    assert loop.drain()["loss"].tolist() == undisturbed.drain()["loss"][:3].tolist()


def test_other_data_begin_where_they_are_told_to():
    _, whole = make_loop(rows=20)
    whole.run(9)
    _, loop = make_loop(rows=20)
    loop.run(4)
    losses = loop.drain()["loss"].tolist()
    loop.restart(iter(dataset().skip(4)))
    assert loop.run(5) == 5
    assert losses + loop.drain()["loss"].tolist() == whole.drain()["loss"].tolist()


def test_an_evaluation_that_is_halted_tells_nothing_and_changes_nothing():
    model, loop = make_loop()
    loop.run(5)
    before, values = metric_values(model), weights(model)
    evaluation = EvaluationLoop(model, tf.distribute.get_strategy(), iter(dataset()), 10**9)
    threading.Timer(0.2, evaluation.halt).start()
    assert evaluation.run() is None
    assert evaluation.run() is None
    assert metric_values(model) == before
    for one, other in zip(values, weights(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_slow_pipeline_shows_as_waiting():
    def slow(x, y):
        return tf.numpy_function(_sleep, [x], tf.float32), y

    def _sleep(x):
        import time

        time.sleep(0.05)
        return x

    def ensure(x, y):
        return tf.ensure_shape(x, (10, 6)), y

    model = compiled(LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="none"))
    model._symbolic_build(data_batch=next(iter(dataset())))
    strategy = tf.distribute.get_strategy()
    data = dataset().map(slow).map(ensure)
    loop = TrainLoop(
        guarded(model, model.train_step, strategy), model.optimizer.telemetry, iter(data), 3
    )
    loop.run(3)
    assert (loop.drain()["data_wait"] > 0.04).all()


def test_a_rehearsal_leaves_no_rows_and_no_place_in_the_data():
    model, loop = make_loop()
    kept = weights(model), [v.numpy() for v in model.optimizer.variables]
    assert loop.rehearse(3, iter(dataset())) > 0
    for variable, value in zip(model.variables, kept[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.optimizer.variables, kept[1], strict=True):
        variable.assign(value)
    loop.run(STEPS)
    _, fresh = make_loop()
    fresh.run(STEPS)
    np.testing.assert_array_equal(loop.drain()["loss"], fresh.drain()["loss"])


def test_evaluation_equals_keras_and_leaves_the_training_metrics():
    model, loop = make_loop()
    loop.run(5)
    before = metric_values(model)
    evaluation = EvaluationLoop(model, tf.distribute.get_strategy(), iter(dataset()), 4)
    first, second = evaluation.run(), evaluation.run()
    assert metric_values(model) == before
    expected = model.evaluate(dataset(repeat=False), return_dict=True, verbose=0)
    assert first == second == pytest.approx(expected, rel=1e-6)


def test_xla_runs_the_same_steps():
    _, loop = make_loop(dropout=0.0)  # XLA draws other masks
    loop.run(4)
    _, compiled_loop = make_loop(jit=True, dropout=0.0)
    compiled_loop.run(4)
    np.testing.assert_allclose(loop.drain()["loss"], compiled_loop.drain()["loss"], rtol=1e-4)
