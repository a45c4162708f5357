"""Small models of each kind: functional, subclassed, nested, and with what cannot be seen into."""

import keras
import numpy as np
import tensorflow as tf

from mpt.models import cnn as mpt_cnn
from mpt.models import resnet as mpt_resnet

L = keras.layers
IMAGES = np.zeros((4, 8, 8, 3), "float32")
ROWS = np.zeros((4, 16), "float32")
SEQUENCES = np.zeros((4, 6, 16), "float32")


def cnn(**kwargs):
    return mpt_cnn.build(shape=(8, 8, 3), classes=10, filters=16, **kwargs)


def resnet():
    return mpt_resnet.build(shape=(8, 8, 3), classes=10, depth=8)


def attention(dropout=0.0, key_dim=8):
    inputs = keras.Input((6, 16))
    x = L.MultiHeadAttention(2, key_dim, dropout=dropout, name="mha")(inputs, inputs)
    x = L.LayerNormalization(name="norm")(L.Add(name="add")([inputs, x]))
    x = L.Dense(32, activation="gelu", name="up")(x)
    x = L.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, L.Dense(8, activation="softmax", name="head")(x))


class Block(L.Layer):
    """A residual block with two layers and an addition of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.a = L.Dense(units, activation="relu", name="a")
        self.b = L.Dense(units, name="b")

    def call(self, x):
        return x + self.b(self.a(x))


class Net(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.first = L.Dense(16, name="first")
        self.blocks = [Block(16, name="block0"), Block(16, name="block1")]
        self.last = L.Dense(8, activation="softmax", name="last")

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def nested():
    """A Sequential and a subclassed model inside a functional one with operations of its own."""
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(8, 3, padding="same", name="conv"),
            L.BatchNormalization(name="bn"),
        ],
        name="encoder",
    )
    inputs = keras.Input((8, 8, 3))
    x = encoder(inputs)
    x = x + keras.ops.tanh(x)
    x = L.Flatten(name="flatten")(x)
    x = Block(512, name="block")(x)
    return keras.Model(inputs, L.Dense(8, name="head")(x), name="outer")


def chain(*layers, shape=(16,)):
    """The layers one after the other, between a Dense and a linear head."""
    inputs = keras.Input(shape)
    x = L.Dense(16, name="before")(inputs)
    for layer in layers:
        x = layer(x)
    x = L.Dense(16, name="after")(x)
    return keras.Model(inputs, L.Dense(8, name="head")(x), name="chain")


class Table(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(tf.ones((16, 16)))


class UsesModule(L.Layer):
    """A layer with a tf.Module, whose variables Keras does not see."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = Table()

    def call(self, x):
        return tf.cast(tf.cast(x, tf.float32) @ self.table.weight, x.dtype)


class UsesFunction(L.Layer):
    """A layer whose tf.function branches on a tensor, so that only autograph can open it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = L.Dense(16, name="inside")

    @tf.function
    def computed(self, x):
        if tf.reduce_sum(tf.cast(x, tf.float32)) > 0:
            x = x + 1
        return self.inside(x)

    def call(self, x):
        return self.computed(x)


class RunsPython(L.Layer):
    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], x.dtype), x.shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


class OnlyTrains(keras.Model):
    """A model with a train_step and no call."""

    def __init__(self, metric=None):
        super().__init__(name="only")
        self.dense = L.Dense(8, name="dense")
        self.dense.build((None, 16))
        self.built = True
        self.metric = metric

    def train_step(self, data):
        x, _ = data
        with tf.GradientTape() as tape:
            prediction = self.dense(x)
            loss = tf.reduce_mean(tf.square(tf.cast(prediction, tf.float32)))
            scaled = self.optimizer.scale_loss(loss)
        self.optimizer.apply(tape.gradient(scaled, self.trainable_variables))
        if self.metric is not None:
            self.metric.update_state(x[:, :8], prediction)
        return {"loss": loss}


def only_trains(metric=None):
    model = OnlyTrains(metric)
    model.compile(optimizer="adam")
    return model
