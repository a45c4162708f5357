"""Models of three kinds with the same layers, in which faults can be planted; and their steps."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import tensorflow as tf

from mpt import precision
from mpt.loss_scale import LossScaleOptimizer, guarded
from mpt.numerics import Capture, Captured

LAYERS = keras.layers
ROWS, FEATURES, UNITS = 6, 4, 5
SCALE = 2.0**10


class Square(LAYERS.Layer):
    """x^2: in float16 infinite from |x| = 256 on."""

    def call(self, inputs):
        return inputs * inputs


class Block(LAYERS.Layer):
    """A layer of layers: `wide` inside a Sequential, then `square`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.Sequential([LAYERS.Dense(UNITS, name="wide")], name="inner")
        self.square = Square(name="square")

    def build(self, shape):
        self.inner.build(shape)
        self.built = True

    def call(self, inputs):
        return self.square(self.inner(inputs))


def functional():
    inputs = keras.Input((FEATURES,))
    x = LAYERS.Dense(UNITS, name="first")(inputs)
    x = Square(name="square")(LAYERS.Dense(UNITS, name="wide")(x))
    return keras.Model(inputs, LAYERS.Dense(1, name="head")(x), name="functional")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = LAYERS.Dense(UNITS, name="first")
        self.wide = LAYERS.Dense(UNITS, name="wide")
        self.square = Square(name="square")
        self.head = LAYERS.Dense(1, name="head")

    def call(self, inputs):
        return self.head(self.square(self.wide(self.first(inputs))))


def nested():
    """A functional model inside a functional model, then a layer of layers."""
    inputs, inner = keras.Input((FEATURES,)), keras.Input((FEATURES,))
    stem = keras.Model(inner, LAYERS.Dense(UNITS, name="first")(inner), name="stem")
    x = Block(name="block")(stem(inputs))
    return keras.Model(inputs, LAYERS.Dense(1, name="head")(x), name="nested")


KINDS = {"functional": functional, "subclassed": Subclassed, "nested": nested}
NESTED_PATHS = {"first": "stem/first", "wide": "block/inner/wide", "square": "block/square"}


def log_loss(targets, predictions):
    """-log of what is positive in the predictions: log(0) where they are negative."""
    return keras.ops.mean(targets - keras.ops.log(keras.ops.relu(predictions)))


class Planted:
    """A compiled model and its guarded step with a capture, at small weights, on a clean batch."""

    def __init__(self, kind, *, jit=False, policy="mixed_float16", mode="fixed", most_skips=50):
        keras.utils.set_random_seed(1)
        self.kind = kind
        self.model = precision.build(KINDS[kind], policy=policy)
        self.optimizer = LossScaleOptimizer(
            keras.optimizers.SGD(0.001), mode=mode, initial_scale=SCALE, min_scale=SCALE
        )
        self.model.compile(self.optimizer, log_loss, auto_scale_loss=False)
        self.x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
        self.y = np.ones((ROWS, 1), "float32")
        precision.verify(self.model, (self.x, self.y))
        self.model._symbolic_build(data_batch=(self.x, self.y))
        self.optimizer.build(self.model.trainable_variables)
        specs = [tf.TensorSpec((ROWS, size), tf.float32) for size in (FEATURES, 1)]
        strategy = tf.distribute.get_strategy()
        self.capture = Capture(self.model, strategy, tuple(specs), most_skips)
        step = tf.function(self.model.train_step, jit_compile=True) if jit else None
        step = guarded(self.model, step or self.model.train_step, strategy)
        self._step = self.capture.around(step)
        several = [tf.TensorSpec((None, *spec.shape), tf.float32) for spec in specs]
        self._call = tf.function(self._steps, input_signature=several)
        self.weight("head", 1).assign([5.0])
        self._start = [(v, v.numpy()) for v in [*self.model.variables, *self.optimizer.variables]]

    def _steps(self, xs, ys):
        for place in tf.range(tf.shape(xs)[0]):
            self._step((xs[place], ys[place]))

    def restart(self):
        for variable, value in self._start:
            variable.assign(value)
        self.capture.rearm()
        return self

    def path(self, layer):
        return NESTED_PATHS.get(layer, layer) if self.kind == "nested" else layer

    def weight(self, layer, place=0):
        """The kernel, or at place 1 the bias, of a layer."""
        return dict(precision.walk(self.model))[self.path(layer)].weights[place]

    def overflow_backward(self):
        """Gradients that overflow in `wide`, though what goes through it forward is small."""
        self.weight("first").assign(1e-3 * self.weight("first").numpy())
        self.weight("wide").assign(np.full((UNITS, UNITS), 1e3))
        self.weight("head").assign(np.ones((UNITS, 1)))

    def run(self, *batches) -> Captured | None:
        """Steps on these batches, in one call; on the clean one where none is given."""
        batches = batches or [(self.x, self.y)]
        self._call(*(np.stack(column) for column in zip(*batches, strict=True)))
        return self.capture.read()

    def state(self):
        return [variable.numpy() for variable in self.model.variables]


@cache
def planted_model(kind, *, jit):
    """A model of its kind with a fixed scale, shared by the tests of a process."""
    return Planted(kind, jit=jit)
