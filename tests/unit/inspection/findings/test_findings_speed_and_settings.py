"""Findings about speed and about the configuration."""

from functools import partial

import inspection_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.inspection.findings import findings
from mpt.inspection.findings.tensor_cores import padded

L = keras.layers
WORDS = np.zeros((4, 6), "int32")


@pytest.fixture
def traced(inspected):
    """`inspected` without counting FLOPs."""
    return partial(inspected, flops=False)


def found(subject):
    return [(each.kind, each.path) for each in findings(subject)]


def in_float32(*names):
    return [{"match": name, "policy": "float32"} for name in names]


def convolutions():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, padding="same", name="first")(inputs)
    y = L.Conv2D(16, 3, padding="same", name="second")(x)
    y = L.BatchNormalization(name="norm")(y)
    x = L.Add(name="add")([x, y])
    x = L.Conv2D(16, 3, padding="same", name="third")(x)
    return keras.Model(inputs, L.Dense(8, name="head")(L.Flatten(name="flatten")(x)))


def test_an_island_and_the_bytes_that_it_casts(traced):
    (finding,) = findings(
        traced(convolutions, models.IMAGES, overrides=in_float32("second", "norm"))
    )
    assert (finding.kind, finding.path) == ("float32_island", "second")
    assert "norm" in finding.message
    numbers = 4 * 8 * 8 * 16  # one activation in and one back
    assert f"{numbers * 4 // 1024} KiB into float32" in finding.message
    assert f"{numbers * 2 // 1024} KiB back" in finding.message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("first",), []),  # its input is float32 as it comes
        (("third", "flatten"), []),  # the head behind it is float32 too
        (("class:*",), []),
        (("add",), ["add"]),
        (("second", "third"), ["second", "third"]),
    ],
)
def test_what_is_an_island_and_what_is_not(traced, names, expected):
    subject = traced(convolutions, models.IMAGES, overrides=in_float32(*names))
    assert [path for kind, path in found(subject) if kind == "float32_island"] == expected


def test_an_island_that_protects_its_numbers_is_left_alone(traced):
    def builder():
        return models.chain(
            L.Softmax(name="gate"),
            L.Dense(16, name="middle"),
            L.Lambda(tf.exp, name="exponential"),
        )

    rules = in_float32("gate", "middle", "exponential")
    assert found(traced(builder, models.ROWS, overrides=rules[:1])) == []
    assert found(traced(builder, models.ROWS, overrides=rules[:1] + rules[2:])) == []
    assert found(traced(builder, models.ROWS, "mixed_bfloat16", overrides=rules[1:2])) == [
        ("float32_island", "middle")
    ]


def test_a_normalization_computes_in_float32_anyway_and_is_an_island(traced):
    def builder():
        norm = L.LayerNormalization(axis=(1, 2), name="norm")
        return models.chain(norm, shape=(256, 16))

    x = np.zeros((4, 256, 16), "float32")
    assert found(traced(builder, x)) == []
    assert found(traced(builder, x, overrides=in_float32("norm"))) == [("float32_island", "norm")]


def test_a_block_that_is_an_island_with_what_is_in_it(traced):
    subject = traced(models.Net, models.ROWS, overrides=in_float32("block0"))
    (finding,) = findings(subject)
    assert (finding.kind, finding.path) == ("float32_island", "block0")
    assert "block0/a, block0/b" in finding.message


@pytest.mark.parametrize(
    ("size", "better"),
    [(50257, 50304), (1000, 1024), (513, 576), (511, 512), (100, 104), (12, 16), (8, 8), (3, 8)],
)
def test_padded_sizes(size, better):
    assert padded(size) == better


def words():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(50257, 20, name="embedding")(inputs)
    x = L.MultiHeadAttention(2, 12, name="mha")(x, x)
    x = L.LSTM(20, name="lstm")(x)
    x = L.Dense(100, name="units")(x)
    x = L.Dense(1, name="single")(x)
    x = L.Dense(30, name="wide", dtype="float32")(x)
    return keras.Model(inputs, L.Dense(7, name="head")(x))


def test_sizes_that_the_user_can_choose(inspected):
    subject = inspected(words, WORDS, "mixed_bfloat16")
    sizes = {
        (each.path, each.message.partition(" is no")[0], each.remedy)
        for each in findings(subject)
        if each.kind == "tensor_core_dimension"
    }
    assert sizes == {  # and not the head's, nor those of float32 and of a single unit
        ("embedding", "vocabulary 50257", "make it 50304"),
        ("embedding", "output_dim 20", "make it 24"),
        ("mha", "key_dim 12", "make it 16"),
        ("lstm", "units 20", "make it 24"),
        ("units", "units 100", "make it 104"),
    }


def test_a_group_of_a_convolution_is_a_product_of_its_own(traced):
    def builder():
        inputs = keras.Input((8, 8, 16))
        x = L.Conv2D(16, 3, groups=4, name="grouped")(inputs)
        x = L.Conv2D(32, 3, groups=4, name="wide")(L.Conv2D(16, 1, name="between")(x))
        return keras.Model(inputs, L.Dense(8, name="head")(L.GlobalAveragePooling2D()(x)))

    (finding,) = findings(traced(builder, np.zeros((4, 8, 8, 16), "float32")))
    assert (finding.path, finding.remedy) == ("grouped", "make it 32")
    assert finding.message.startswith("filters 16 in 4 groups, 4 each, is no multiple of 8")


def test_sizes_do_not_matter_in_float32(traced):
    def builder():
        return models.chain(L.Dense(20, name="odd"))

    assert found(traced(builder, models.ROWS)) == [("tensor_core_dimension", "odd")]
    assert found(traced(builder, models.ROWS, "float32")) == []


def test_a_layer_of_one_s_own_and_its_weight(traced):
    class Own(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.table = self.add_weight(shape=(16, 20), name="table")

        def call(self, x):
            return keras.ops.matmul(x, self.table)

    (finding,) = findings(traced(lambda: models.chain(Own(name="own")), models.ROWS))
    assert (finding.path, finding.remedy) == ("own", "make it 24")
    assert "table 20" in finding.message


def test_a_size_with_next_to_no_flops_is_left_alone(inspected):
    def builder():
        inputs = keras.Input((32, 32, 3))
        x = L.Conv2D(32, 3, name="conv")(inputs)
        x = L.Conv2D(32, 3, name="more")(x)
        x = L.GlobalAveragePooling2D()(x)
        x = L.Dense(4, name="squeeze")(x)
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    assert found(inspected(builder, np.zeros((4, 32, 32, 3), "float32"))) == []


@pytest.mark.parametrize(
    ("rules", "idle"),
    [
        (in_float32("head"), [0]),  # it is so already
        (in_float32("before", "after"), []),
        (in_float32("before", "class:Dense"), [0]),  # the later one covers it
        ([*in_float32("before"), {"match": "before", "policy": "mixed_float16"}], [0]),
        ([{"match": "after", "policy": "mixed_float16"}], [0]),
    ],
)
def test_rules_that_change_nothing(traced, rules, idle):
    subject = traced(models.chain, models.ROWS, overrides=rules)
    said = [each for each in findings(subject) if each.kind == "override_without_effect"]
    assert [each.message.partition(" ")[0] for each in said] == [
        f"precision.overrides[{index}]" for index in idle
    ]


def test_a_rule_that_is_idle_can_be_left_out(traced):
    """The claim itself: the table of policies is the same without it."""
    rules = in_float32("before", "class:Dense")
    with_it = traced(models.chain, models.ROWS, overrides=rules).prepared.table
    without = traced(models.chain, models.ROWS, overrides=rules[1:]).prepared.table
    assert with_it == without


@pytest.mark.parametrize(
    ("policy", "mode", "expected"),
    [
        ("mixed_float16", "none", ["loss_scale_missing"]),
        ("mixed_float16", "fixed", []),
        ("mixed_bfloat16", "dynamic", ["loss_scale_useless"]),
        ("float32", "fixed", ["loss_scale_useless"]),
        ("float32", "none", []),
    ],
)
def test_a_loss_scale_where_it_is_needed(traced, policy, mode, expected):
    subject = traced(models.chain, models.ROWS, policy, loss_scale=mode)
    assert [kind for kind, _ in found(subject)] == expected


def test_a_train_step_that_never_scales(traced):
    class Unscaled(models.OnlyTrains):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.dense(data[0])))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables))
            return {}

    def builder():
        model = Unscaled()
        model.compile(optimizer="adam")
        return model

    assert ("loss_scale_missing", "only") in found(traced(builder, models.ROWS))
