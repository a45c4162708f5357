"""Captures and diagnoses a NaN row on two logical CPU devices; prints JSON.

A process of its own, because devices are laid out before TensorFlow starts. The NaN is in the
second replica's half of the second batch.
"""

import json

import keras
import numpy as np
import tensorflow as tf

from mpt.loss_scale import LossScaleOptimizer, guarded
from mpt.numerics import Capture, diagnose, replaying

ROWS, BAD = 8, 6


def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(3 * ROWS, 5)).astype("float32")
    x[ROWS + BAD, 2] = np.nan
    return x, generator.integers(0, 3, 3 * ROWS)


def main() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    x, y = data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS, drop_remainder=True)
    keras.utils.set_random_seed(11)
    with strategy.scope():
        layers = [keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((5,)), *layers])
        optimizer = LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="dynamic")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], auto_scale_loss=False)
        model._symbolic_build(data_batch=(x[:ROWS], y[:ROWS]))
        optimizer.build(model.trainable_variables)
    capture = Capture(model, strategy, dataset.element_spec, 50)
    run = tf.function(capture.around(guarded(model, model.train_step, strategy)), autograph=False)
    every = [*model.variables, *model.metrics_variables, *optimizer.variables]
    parts = [p for v in every for p in strategy.experimental_local_results(v.value)]
    states, captured_after = [], []
    for batch in strategy.experimental_distribute_dataset(dataset):
        states.append([variable.numpy() for variable in model.variables])
        run(batch)
        captured_after.append(float(capture.telemetry()["captured"]))
    captured = capture.read()
    before = [part.numpy() for part in parts]
    with replaying(model, captured) as replay:
        found = diagnose(replay)
    after = [part.numpy() for part in parts]
    moving = strategy.experimental_local_results(model.layers[1].moving_mean.value)
    result = {
        "captured_after": captured_after,
        "step": captured.step,
        "batch_is_whole": np.array_equal(captured.batch[0], x[ROWS : 2 * ROWS], equal_nan=True),
        "state_is_that_before": all(map(np.array_equal, captured.state, states[1])),
        "entry": found.entry(),
        "statistics_differ": not np.array_equal(*(part.numpy() for part in moving)),
        "left_alone": all(
            np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)
        ),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
