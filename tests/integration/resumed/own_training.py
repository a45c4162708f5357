"""A user's code for runs that are interrupted: a model of much that has a state, data, signals."""

import json
import os
import signal
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

CLASSES = 4


class InTheStep(keras.layers.Layer):
    """Sends SIGTERM within the training steps whose numbers a JSON file holds."""

    def __init__(self, file, **kwargs):
        super().__init__(**kwargs)
        self.file = Path(file)
        self.taken = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="taken"
        )

    def call(self, inputs, training=False):
        if training:
            self.taken.assign_add(1)
            tf.numpy_function(self._send, [self.taken.value], [])
        return inputs

    def _send(self, step):
        if self.file.exists() and int(step) in json.loads(self.file.read_text()):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # a step that takes its time: who waits for the next one shows


class Slow(keras.layers.Layer):
    """Takes its time from a training step, or an evaluation's batch, on; a file says that it does.

    Args:
        training, evaluation: (first, seconds): batches from number `first`, from 1, take `seconds`.
        file: is written when such a batch is at work: the word training or evaluation.
    """

    def __init__(self, training=None, evaluation=None, file="slow.txt", **kwargs):
        super().__init__(**kwargs)
        self.limits = {"training": training, "evaluation": evaluation}
        self.seen = {"training": 0, "evaluation": 0}
        self.file = Path(file)

    def call(self, inputs, training=False):
        part = "training" if training else "evaluation"
        if self.limits[part]:
            tf.numpy_function(lambda: self._sleep(part), [], [])
        return inputs

    def _sleep(self, part):
        first, seconds = self.limits[part]
        self.seen[part] += 1
        if self.seen[part] >= first:
            self.file.write_text(part)
            time.sleep(seconds)


class Signals(keras.callbacks.Callback):
    """Sends this process a signal in the hooks, and at the steps, that a JSON file names, once.

    The file holds [hook, step, signal] rows; without it nothing is sent. Like any callback, it
    counts: what it has counted is part of the run.
    """

    def __init__(self, file):
        super().__init__()
        self.file = Path(file)
        self.epochs_begun = []
        self.batches_ended = 0

    def _send(self, hook):
        rows = json.loads(self.file.read_text()) if self.file.exists() else []
        step = int(tf.convert_to_tensor(self.model.optimizer.attempted_steps).numpy())
        for row in rows:
            if row[:2] == [hook, step]:
                self.file.write_text(json.dumps([other for other in rows if other != row]))
                os.kill(os.getpid(), signal.Signals[row[2]])
                time.sleep(0.1)  # who waits for the next step shows

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs_begun.append(epoch)
        self._send("epoch_begin")

    def on_epoch_end(self, epoch, logs=None):
        self._send("epoch_end")

    def on_train_batch_begin(self, batch, logs=None):
        self._send("train_batch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self.batches_ended += 1
        self._send("train_batch_end")

    def on_test_begin(self, logs=None):
        self._send("test_begin")

    def on_test_end(self, logs=None):
        self._send("test_end")

    def on_train_end(self, logs=None):
        self._send("train_end")


def model(shape, classes=CLASSES, signals=None, slow=None, shift=True):
    """Random layers, moving statistics and dropout; every layer named.

    Args:
        signals: the file of `InTheStep`.
        slow: arguments of `Slow`.
        shift: translate images, which XLA cannot.
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            *([InTheStep(signals, name="signals")] if signals else []),
            *([Slow(**slow, name="slow")] if slow else []),
            layers.RandomFlip(name="flip"),
            *([layers.RandomTranslation(0.1, 0.1, name="shift")] if shift else []),
            layers.Conv2D(4, 3, strides=2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flat"),
            layers.Dropout(0.3, name="drop"),
            layers.Dense(classes, name="logits"),
        ],
        name="small",
    )


def images(rows=320, seed=3):
    """Images (8, 8, 1) of brightness by class."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows, dtype="int32") % CLASSES
    x = rng.normal(size=(rows, 8, 8, 1)) + y[:, None, None, None]
    return x.astype("float32"), y


def data(rows=320, infinite=()):
    """(training, validation), whose order is drawn by the run; `infinite` rows overflow."""
    x, y = images(rows)
    x[list(infinite)] = np.inf
    held_out = tf.data.Dataset.from_tensor_slices(images(64, seed=4))
    return tf.data.Dataset.from_tensor_slices((x, y)), held_out


def shuffled_by_itself(reshuffle, rows=320):
    """Training data in an order that its own seed draws; another one each epoch, or not."""
    training, held_out = data(rows)
    return training.shuffle(rows, seed=11, reshuffle_each_iteration=reshuffle), held_out


def hung(hang="hang.txt", file="hung.txt"):
    """Data that never come once there is a file `hang`; `file` says that they are asked for."""

    def rows():
        if Path(hang).exists():
            Path(file).touch()
            time.sleep(3600)
        yield from zip(*images(), strict=True)

    signature = (tf.TensorSpec((8, 8, 1), tf.float32), tf.TensorSpec((), tf.int32))
    return tf.data.Dataset.from_generator(rows, output_signature=signature)


def bad_for_a_while(first, last, rows=960, batch=32):
    """Training data whose batches from `first` to `last`, from 0, are not finite; 30 an epoch."""
    x, y = images(rows)
    x[first * batch : (last + 1) * batch] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, y))
