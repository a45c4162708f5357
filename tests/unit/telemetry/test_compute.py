"""FLOPs counted from HLO, held against counts by hand and published ones."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.telemetry.compute import Compute, forward_flops, matmul_peak
from mpt.telemetry.hlo import count_flops
from mpt.telemetry.window import Window


def test_a_convolution_and_a_dense_layer():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(10)]
    )
    by_hand = 2 * 6 * 6 * 16 * (3 * 3 * 3) + 2 * (6 * 6 * 16) * 10
    assert forward_flops(model, tf.TensorSpec([None, 8, 8, 3])) == by_hand


def test_grouped_and_strided_convolutions():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(8, 3, strides=2, padding="same", groups=2)]
    )
    assert forward_flops(model, tf.TensorSpec([None, 8, 8, 4])) == 2 * 4 * 4 * 8 * (9 * 2)


def test_attention_is_counted_where_profilers_miss_einsum():
    inputs = keras.Input((16, 32))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(4, 8)(inputs, inputs))
    by_hand = 4 * (2 * 16 * 32 * 32) + 2 * (2 * 16 * 16 * 8 * 4)
    assert forward_flops(model, tf.TensorSpec([None, 16, 32])) == by_hand


def test_several_inputs_and_half_precision():
    a, b = keras.Input((8,)), keras.Input((4,))
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16")
    model = keras.Model([a, b], dense(keras.layers.Concatenate()([a, b])))
    specs = (tf.TensorSpec([None, 8]), tf.TensorSpec([None, 4]))
    assert forward_flops(model, specs) == 2 * 12 * 2


def test_a_model_that_xla_cannot_lower_is_not_measured():
    class Opaque(keras.layers.Layer):
        def call(self, x):
            return tf.reshape(tf.numpy_function(lambda v: v, [x], tf.float32), tf.shape(x))

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((4,)), Opaque()])
    assert forward_flops(model, tf.TensorSpec([None, 4])) is None


def test_operands_without_shapes_are_looked_up():
    hlo = """
    ENTRY %main (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
      %a = f32[4,8]{1,0} parameter(0)
      %b = f32[8,2]{1,0} parameter(1)
      ROOT %d = f32[4,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    }
    """
    assert count_flops(hlo) == 2 * 4 * 2 * 8


def test_the_peak_is_a_rate_and_unknown_dtypes_have_none():
    peak = matmul_peak("float32")
    a = np.ones((512, 512), "float32")
    a @ a
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    by_numpy = 5 * 2 * 512**3 / (time.perf_counter() - start)
    assert 0.2 < peak / by_numpy < 20
    assert matmul_peak("string") is None


def test_tags_are_absent_where_a_part_is_unknown():
    window = Window(step=1, rows={}, seconds=2.0, examples=10)
    assert Compute(None, 1e9).tags(window) == {}
    assert Compute(100.0, None).tags(window) == {"compute/model_flops_per_second": 1500.0}
    assert Compute(100.0, 3000.0).tags(window)["compute/utilization"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("shape", "layers", "expected"),
    [
        # One step of the loop: four gates of (8 + 8) x 8; Keras also calls the cell before it.
        ((6, 8), lambda: [keras.layers.LSTM(8)], 4 * 2 * 16 * 8),
        ((6, 8), lambda: [keras.layers.LSTM(8, unroll=True)], 6 * 4 * 2 * 16 * 8),
        # Every input meets every number of the kernel once.
        ((8, 8, 4), lambda: [keras.layers.Conv2DTranspose(8, 2, strides=2)], 2 * 64 * 4 * 8 * 4),
        (
            (6, 6, 8),
            lambda: [keras.layers.Conv2DTranspose(8, 3, strides=2, padding="same")],
            2 * 36 * 8 * 8 * 9,
        ),
    ],
)
def test_calls_that_are_thrown_away_and_inserted_zeros_do_not_count(shape, layers, expected):
    model = keras.Sequential([keras.Input(shape), *layers()])
    assert forward_flops(model, tf.TensorSpec((None, *shape), tf.float32)) == expected
