"""A user's code for runs over several workers: data, models, and what befalls one of them."""

import json
import os
import signal
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

ROWS, EXAMPLES, FEATURES, CLASSES = 24, 240, 6, 3


def data(batch_size, seed, bad_batch=None, bad_rows=(0, 0)):
    """Ten batches an epoch; rows of one may be NaN. The last batch of validation has one row."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(EXAMPLES, FEATURES)).astype("float32")
    y = (x[:, :CLASSES] ** 2).argmax(-1).astype("int32")
    held_out = x[: 2 * batch_size + 1].copy(), y[: 2 * batch_size + 1]
    if bad_batch is not None:
        first = bad_batch * batch_size
        x[first + bad_rows[0] : first + bad_rows[1]] = np.nan
    train = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
    return train, tf.data.Dataset.from_tensor_slices(held_out).batch(batch_size)


def model(shape, classes, normalized=False):
    """A small network; not relu, whose fused kernel makes 0 of NaN on some CPUs."""
    layers = [keras.Input(shape), keras.layers.Dense(8, activation="tanh")]
    if normalized:
        layers.append(keras.layers.BatchNormalization())
    return keras.Sequential([*layers, keras.layers.Dense(classes)])


def rank():
    """This process's place, as the environment has it."""
    if "TF_CONFIG" in os.environ:
        return json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    return int(os.environ.get("SLURM_PROCID", "0"))


class Variables(keras.callbacks.Callback):
    """Leaves each replica's weights in this worker's file: before the last evaluation and after."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def on_train_batch_end(self, batch, logs=None):
        self._save("before")

    def on_train_end(self, logs=None):
        self._save("after")

    def _save(self, name):
        values = [[p.numpy() for p in v.value.values] for v in self.model.weights]
        self.folder.mkdir(exist_ok=True)
        np.savez(self.folder / f"{name}-{rank()}.npz", *values)


class Event(keras.callbacks.Callback):
    """Once a file says so, a signal to one worker after a step: {"rank", "step", "signal"}."""

    def __init__(self, file):
        super().__init__()
        self.file, self.step = Path(file), 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        event = json.loads(self.file.read_text()) if self.file.exists() else {}
        if event.get("rank") != rank() or event["step"] != self.step:
            return
        if event["signal"] == "STOP":  # a callback of one worker's asks to stop
            self.model.stop_training = True
            return
        (self.file.parent / "at.txt").write_text(str(time.time()))
        os.kill(os.getpid(), getattr(signal, event["signal"]))
        time.sleep(0.5)
