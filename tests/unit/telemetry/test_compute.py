"""FLOPs counted from HLO, held against counts by hand and published ones."""

import keras
import pytest
import tensorflow as tf

from mpt.telemetry.compute import Compute, ForwardPass, forward_pass
from mpt.telemetry.hlo import cast_bytes, products
from mpt.telemetry.window import Window


def test_a_convolution_and_a_dense_layer():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(10)]
    )
    by_hand = 2 * 6 * 6 * 16 * (3 * 3 * 3) + 2 * (6 * 6 * 16) * 10
    assert forward_pass(model, tf.TensorSpec([None, 8, 8, 3])).flops == by_hand


def test_grouped_and_strided_convolutions():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(8, 3, strides=2, padding="same", groups=2)]
    )
    assert forward_pass(model, tf.TensorSpec([None, 8, 8, 4])).flops == 2 * 4 * 4 * 8 * (9 * 2)


def test_attention_is_counted_where_profilers_miss_einsum():
    inputs = keras.Input((16, 32))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(4, 8)(inputs, inputs))
    by_hand = 4 * (2 * 16 * 32 * 32) + 2 * (2 * 16 * 16 * 8 * 4)
    assert forward_pass(model, tf.TensorSpec([None, 16, 32])).flops == by_hand


def test_several_inputs_and_half_precision():
    a, b = keras.Input((8,)), keras.Input((4,))
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16")
    model = keras.Model([a, b], dense(keras.layers.Concatenate()([a, b])))
    specs = (tf.TensorSpec([None, 8]), tf.TensorSpec([None, 4]))
    assert forward_pass(model, specs).flops == 2 * 12 * 2


def test_a_model_that_xla_cannot_lower_is_not_measured():
    class Opaque(keras.layers.Layer):
        def call(self, x):
            return tf.reshape(tf.numpy_function(lambda v: v, [x], tf.float32), tf.shape(x))

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((4,)), Opaque()])
    assert forward_pass(model, tf.TensorSpec([None, 4])) == ForwardPass()


def test_operands_without_shapes_are_looked_up():
    hlo = """
    ENTRY %main (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
      %a = f32[4,8]{1,0} parameter(0)
      %b = f32[8,2]{1,0} parameter(1)
      ROOT %d = f32[4,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    }
    """
    assert [product.flops for product in products(hlo)] == [2 * 4 * 2 * 8]


def mixed(*layers):
    """The forward pass of a model under mixed_bfloat16, of 8x8 images with 4 channels."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras.Sequential([keras.Input((8, 8, 4)), *[make() for make in layers]])
    finally:
        keras.config.set_dtype_policy(before)
    return forward_pass(model, tf.TensorSpec([None, 8, 8, 4]))


def test_the_share_of_flops_in_float32_is_that_of_the_layers_kept_there():
    L = keras.layers
    conv, head = 2 * 64 * 6 * 4 * 9, 2 * 384 * 10
    found = mixed(
        lambda: L.Conv2D(6, 3, padding="same"), L.Flatten, lambda: L.Dense(10, dtype="float32")
    )
    assert found.flops == conv + head
    assert found.float32_flops_fraction == pytest.approx(head / (conv + head))
    assert mixed(L.Flatten, lambda: L.Dense(10)).float32_flops_fraction == 0
    assert mixed(L.Flatten, lambda: L.Dense(10, dtype="float32")).float32_flops_fraction == 1
    assert mixed(L.Flatten).float32_flops_fraction is None  # it has no products


def test_casts_of_activations_count_and_those_of_weights_do_not():
    L = keras.layers
    image = 8 * 8 * 4
    assert mixed(L.Flatten, lambda: L.Dense(10)).cast_bytes == 2 * image  # of the input
    there_and_back = 4 * image + 2 * image  # to float32 and to bfloat16 again
    normalized = mixed(L.ReLU, L.LayerNormalization, L.Flatten, lambda: L.Dense(10))
    assert normalized.cast_bytes == 2 * image + there_and_back
    headed = mixed(L.Flatten, lambda: L.Dense(10, dtype="float32"))
    assert headed.cast_bytes == 2 * image + 4 * image
    plain = keras.Sequential([keras.Input((8, 8, 4)), L.LayerNormalization()])
    assert forward_pass(plain, tf.TensorSpec([None, 8, 8, 4])).cast_bytes == 0


def test_a_fused_kernel_writes_no_casts():
    @tf.function(jit_compile=True)
    def normalized(x):
        ones = tf.ones(4)
        return tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(x, "bfloat16"),
            scale=ones,
            offset=ones,
            mean=ones,
            variance=ones,
            is_training=False,
        ).y

    hlo = normalized.experimental_get_compiler_ir(tf.TensorSpec([1, 8, 8, 4]))(stage="hlo")
    assert hlo.count(" convert(") > 1
    assert cast_bytes(hlo, 1) == 2 * 8 * 8 * 4


def test_casts_that_nothing_uses_or_that_keep_the_width_do_not_count():
    hlo = """
    ENTRY %main (a: f32[4], w: f32[4]) -> f16[4] {
      %a = f32[4]{0} parameter(0)
      %w = f32[4]{0} parameter(1)
      %unused = f64[4]{0} convert(%a)
      %half = bf16[4]{0} convert(%a)
      %other = f16[4]{0} convert(%half)
      %weight = f16[4]{0} convert(%w)
      ROOT %sum = f16[4]{0} add(%other, %weight)
    }
    """
    assert cast_bytes(hlo, 1) == 2 * 4
    assert cast_bytes(hlo, 2) == 2 * 4 + 2 * 4


def test_tags_are_absent_where_a_part_is_unknown():
    window = Window(step=1, rows={}, seconds=2.0, examples=10)
    assert Compute(ForwardPass(), 1e9).tags(window) == {}
    assert Compute(ForwardPass(100.0), None).tags(window) == {
        "compute/model_flops_per_second": 1500.0
    }
    assert Compute(ForwardPass(100.0), 3000.0).tags(window)["compute/utilization"] == pytest.approx(
        0.5
    )


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
    assert forward_pass(model, tf.TensorSpec((None, *shape), tf.float32)).flops == expected
