"""FLOPs by layer: their sum is what a run reports, and each is what one counts by hand."""

import inspection_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.telemetry.compute import forward_pass

L = keras.layers

CASES = {
    "cnn": (models.cnn, models.IMAGES),
    "resnet": (models.resnet, models.IMAGES),
    "attention": (models.attention, models.SEQUENCES),
    "nested": (models.nested, models.IMAGES),
    "subclassed": (models.Net, models.ROWS),
}


@pytest.mark.parametrize("name", CASES)
def test_the_layers_sum_to_the_models_flops(inspected, name):
    builder, x = CASES[name]
    subject = inspected(builder, x, "mixed_bfloat16")
    whole = forward_pass(subject.model, tf.TensorSpec([None, *x.shape[1:]])).flops
    assert whole > 0
    assert subject.flops.total == whole
    assert sum(subject.flops.of(path) for path in subject.flops.by_path) == whole


def test_each_layer_of_a_cnn(inspected):
    flops = inspected(models.cnn, models.IMAGES).flops
    assert flops.of("conv") == 2 * 6 * 6 * 16 * (3 * 3 * 3)
    assert flops.of("head") == 2 * (6 * 6 * 16) * 10
    assert flops.of("flatten") == 0
    assert flops.half == flops.of("conv")  # the head computes in float32


def test_attention_has_its_own_products_and_its_children_theirs(inspected):
    flops = inspected(models.attention, models.SEQUENCES).flops
    assert flops.of("mha") == 2 * (2 * 6 * 6 * 8 * 2)
    for child in ("query", "key", "value", "attention_output"):
        assert flops.of(f"mha/{child}") == 2 * 6 * 16 * 16


def test_a_nested_model_and_a_layer_called_twice(inspected):
    def builder():
        shared = L.Dense(16, name="shared")
        inner = keras.Sequential([keras.Input((16,)), shared], name="inner")
        inputs = keras.Input((16,))
        return keras.Model(inputs, L.Dense(2, name="head")(inner(inner(inputs))))

    flops = inspected(builder, models.ROWS).flops
    assert flops.of("inner/shared") == 2 * (2 * 16 * 16)
    assert flops.of("inner") == 0


def test_operations_between_layers_and_of_the_model_itself(inspected):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = L.Dense(16, name="dense")

        def call(self, x):
            x = self.dense(x)
            return tf.matmul(x, tf.ones((16, 4), x.dtype))

    def functional():
        inputs = keras.Input((6, 16))
        x = L.Dense(16, name="dense")(inputs)
        return keras.Model(inputs, keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))))

    assert inspected(Own, models.ROWS).flops.of("own") == 2 * 16 * 4
    by_path = inspected(functional, models.SEQUENCES).flops.by_path
    assert by_path["matmul"].total() == 2 * 6 * 6 * 16


def test_a_layer_inside_a_tf_function_is_seen(inspected):
    class Compiled(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inside = L.Dense(16, name="inside")

        @tf.function
        def computed(self, x):
            return self.inside(x)

        def call(self, x):
            return self.computed(x)

    subject = inspected(lambda: models.chain(Compiled(name="compiled")), models.ROWS)
    assert subject.flops.of("compiled/inside") == 2 * 16 * 16
    assert [call.path for call in subject.calls_of("compiled/inside")]


def test_a_loop_counts_one_pass_and_says_so(inspected):
    def builder():
        inputs = keras.Input((6, 16))
        return keras.Model(inputs, L.Dense(2)(L.LSTM(8, name="lstm")(inputs)))

    subject = inspected(builder, models.SEQUENCES, "float32")
    assert subject.flops.looped == ["lstm/lstm_cell"]
    assert any("one pass of their loop" in note for note in subject.notes)
    assert subject.flops.total == forward_pass(subject.model, tf.TensorSpec([None, 6, 16])).flops


def test_a_loop_of_one_s_own(inspected):
    class Loops(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inside = L.Dense(16, name="inside")

        def call(self, x):
            def step(i, value):
                return i + 1, self.inside(value)

            _, x = tf.while_loop(lambda i, _: i < 3, step, (0, x), name="spin")
            return tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v @ v), (0, x))[1]

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def build(self, shape):
            self.inside.build(shape)

    def builder():
        inputs = keras.Input((16, 16))
        return keras.Model(inputs, L.Dense(2, name="head")(Loops(name="loops")(inputs)))

    subject = inspected(builder, np.zeros((4, 16, 16), "float32"), "bfloat16")
    assert subject.flops.looped == ["loops/inside", "loops"]
    assert subject.flops.of("loops/inside") == 2 * 16 * 16 * 16


def test_what_xla_cannot_lower_is_named(inspected):
    subject = inspected(lambda: models.chain(models.RunsPython(name="python")), models.ROWS)
    assert subject.flops.total is None
    assert subject.flops.of("before") is None
    assert subject.flops.culprit == "python"
    assert "PyFunc" in subject.flops.reason


def test_several_inputs_and_a_sequence_without_a_length(inspected):
    def builder():
        words, more = keras.Input((None, 16), name="words"), keras.Input((4,), name="more")
        x = L.Dense(8, name="dense")(words)
        x = L.GlobalAveragePooling1D()(x)
        return keras.Model([words, more], L.Dense(2, name="head")(L.Concatenate()([x, more])))

    subject = inspected(builder, [np.zeros((4, 5, 16), "float32"), np.zeros((4, 4), "float32")])
    assert subject.flops.of("dense") == 2 * 5 * 16 * 8
    assert subject.flops.of("head") == 2 * 12 * 2
