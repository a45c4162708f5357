"""A model whose gradients NumPy computes to the bit, trained by the device loop.

Its loss is linear in its outputs, so no gradient depends on the weights, and its data are small
integers times powers of two, so no sum is rounded. Run as a script, it trains on two logical CPU
devices, which are laid out before TensorFlow starts, and prints the counts as JSON.
"""

import json

import keras
import numpy as np
import tensorflow as tf

from mpt.loop import TrainLoop
from mpt.loss_scale import LossScaleOptimizer, guarded
from mpt.replicas import iterate
from mpt.telemetry.histograms import ExponentHistograms, Watched

ROWS, SCALE, EVERY, STEPS = 8, 4.0, 4, 16
OVERFLOW = 8  # the step whose batch holds infinities


def batches():
    """One (x, y) a step; the columns of y are 2^8 apart, down to where float16 ends."""
    generator = np.random.default_rng(1)
    steps = []
    for step in range(1, STEPS + 1):
        x = generator.integers(-2, 3, (ROWS, 6)).astype("float32")
        y = generator.integers(-3, 4, (ROWS, 4)) * 2.0 ** np.array([0, -8, -16, -24])
        if step == OVERFLOW:
            x[3, :2] = np.inf
        steps.append((x, y.astype("float32")))
    return steps


def expected(step, dtype):
    """The scaled gradients of kernel and bias at a step, in float64, rounded where Keras does."""
    x, y = batches()[step - 1]
    outputs = (y * SCALE / ROWS).astype(dtype).astype("float64")
    with np.errstate(invalid="ignore"):
        return x.astype("float64").T @ outputs, outputs.sum(0)


def make(policy, jit=False, strategy=None):
    """A loop over `batches`, and the histograms that it fills."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        inputs = keras.Input((6,))
        dense = keras.layers.Dense(4, name="dense", dtype=policy)
        model = keras.Model(inputs, dense(inputs))
        scale = LossScaleOptimizer(keras.optimizers.SGD(0.1), mode="fixed", initial_scale=SCALE)
        model.compile(scale, lambda y, p: keras.ops.sum(y * p, -1), auto_scale_loss=False)
        model._symbolic_build(data_batch=batches()[0])
        scale.build(model.trainable_variables)
        watched = [Watched("dense", dense.trainable_variables, dense.compute_dtype)]
        scale.histograms = ExponentHistograms(watched, EVERY)
    columns = tuple(np.concatenate(column) for column in zip(*batches(), strict=True))
    data = tf.data.Dataset.from_tensor_slices(columns).batch(ROWS, drop_remainder=True).repeat()
    step = tf.function(model.train_step, jit_compile=True) if jit else model.train_step
    run = guarded(model, step, strategy)
    return TrainLoop(run, scale.telemetry, iterate(data, strategy), STEPS), scale.histograms


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    loop, histograms = make("float32", strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    found = []
    for _ in range(0, STEPS, EVERY):
        loop.run(EVERY)
        (spread,) = histograms.read()
        found.append([spread.step, spread.counts.tolist()])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
