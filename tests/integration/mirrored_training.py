"""Trains on two logical CPU devices, with and without one NaN batch; prints JSON.

A process of its own, because devices are laid out before TensorFlow starts. Argument: the loss
scale's mode. The NaN is in the first replica's half of the bad batch, in the second's, in both.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from mpt import optim
from mpt.loss_scale import LossScaleOptimizer, guarded

ROWS = 8


def batches(bad_half: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(3)
    good = [
        (generator.normal(size=(ROWS, 5)).astype("float32"), generator.integers(0, 3, ROWS))
        for _ in range(4)
    ]
    if bad_half is None:
        return good
    x, y = good[0][0].copy(), good[0][1]
    rows = {"first": slice(0, ROWS // 2), "second": slice(ROWS // 2, ROWS), "both": slice(None)}
    x[rows[bad_half]] = np.nan
    return [good[0], (x, y), *good[1:]]


def model(*, random: bool, float8: bool = False) -> keras.Model:
    if float8:
        keras.config.set_dtype_policy("mixed_bfloat16")
        net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), keras.layers.Dense(3)])
        net.layers[0].quantize("float8")
        return net
    # Not relu, whose fused kernel makes 0 of NaN on some CPUs.
    layers = [keras.Input((5,)), keras.layers.Dense(6, activation="tanh", name="one")]
    if random:
        layers += [keras.layers.BatchNormalization(), keras.layers.Dropout(0.3, seed=5)]
    return keras.Sequential([*layers, keras.layers.Dense(3, name="two")])


def train(strategy, runs: dict, *, mode: str, name: str, random: bool = True, float8=False) -> dict:
    """Trains once on each of `runs`, always from the same start."""
    keras.utils.set_random_seed(11)
    with strategy.scope():
        net = model(random=random, float8=float8)
        inner = optim.build(name=name, learning_rate=0.01, total_steps=10, global_clipnorm=1.0)
        scale = {"mode": mode, "initial_scale": 4.0, "statistics_every": 1}
        optimizer = LossScaleOptimizer(inner, **scale)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(optimizer, loss, metrics=["accuracy"], auto_scale_loss=False)
        net._symbolic_build(data_batch=batches(None)[0])
        optimizer.build(net.trainable_variables)
    run = guarded(net, net.train_step, strategy)

    @tf.function(autograph=False)
    def call(iterator):
        run(next(iterator))
        return optimizer.telemetry()

    kinds = {"weights": net.variables, "metrics": net.metrics_variables, "slots": inner.variables}
    every = [v for kind in (*kinds.values(), optimizer.variables) for v in kind]
    parts = [p for v in every for p in strategy.experimental_local_results(v.value)]
    start = [part.numpy() for part in parts]
    result = {}
    for label, data in runs.items():
        for part, value in zip(parts, start, strict=True):
            part.assign(value)
        columns = tuple(np.concatenate(column) for column in zip(*data, strict=True))
        dataset = tf.data.Dataset.from_tensor_slices(columns).batch(ROWS, drop_remainder=True)
        iterator = iter(strategy.experimental_distribute_dataset(dataset))
        telemetry = [{k: float(v) for k, v in call(iterator).items()} for _ in data]
        state = {
            kind: [
                part.numpy().astype("float64").ravel().tolist()
                for variable in variables
                for part in strategy.experimental_local_results(variable.value)
            ]
            for kind, variables in kinds.items()
        }
        result[label] = {"state": state, "telemetry": telemetry}
    return result


def main(mode: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    runs = {half: batches(half) for half in ("first", "second", "both")}
    result = train(strategy, {**runs, "clean": batches(None)}, mode=mode, name="adam")
    for name, where in (("mirrored", strategy), ("alone", tf.distribute.get_strategy())):
        result |= train(where, {name: batches(None)}, mode=mode, name="sgd", random=False)
        runs = {f"{name}_float8": batches(None)}
        result |= train(where, runs, mode=mode, name="sgd", random=False, float8=True)
        keras.config.set_dtype_policy("float32")
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
