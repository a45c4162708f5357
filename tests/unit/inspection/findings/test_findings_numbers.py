"""Findings about numbers: each planted fault is found, at its layer, and its remedy removes it."""

from functools import partial

import inspection_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf
from hydra.core.override_parser.overrides_parser import OverridesParser

from mpt.inspection.findings import findings
from mpt.inspection.findings.operations import LONG
from mpt.models import gpt

L = keras.layers
WIDE = np.zeros((4, LONG + 8), "float32")


@pytest.fixture
def traced(inspected):
    """`inspected` without counting FLOPs."""
    return partial(inspected, flops=False)


def found(subject, kind=None):
    """The findings as (kind, path), of one kind or of all."""
    pairs = [(each.kind, each.path) for each in findings(subject)]
    return [path for each, path in pairs if each == kind] if kind else pairs


def rules_of(finding):
    """The overrides that a remedy spells out, read as Hydra reads them."""
    _, start, rest = finding.remedy.partition('"precision.overrides=')
    assert start, finding.remedy
    text = f"precision.overrides={rest.partition(chr(34))[0]}"
    return OverridesParser.create().parse_override(text).value()


@pytest.mark.parametrize(
    ("builder", "x", "policy"),
    [
        (models.cnn, models.IMAGES, "float32"),
        (models.cnn, models.IMAGES, "mixed_float16"),
        (models.cnn, models.IMAGES, "mixed_bfloat16"),
        (models.Net, models.ROWS, "mixed_float16"),
    ],
)
def test_a_sound_model_has_no_findings(inspected, builder, x, policy):
    assert found(inspected(builder, x, policy)) == []


def test_a_residual_network_has_none_either(inspected):
    assert found(inspected(models.resnet, models.IMAGES)) == []


def test_a_transformer_has_none_either(traced):
    def builder():
        return gpt.build(shape=(8,), classes=20, depth=1, heads=2, width=16)

    assert found(traced(builder, np.zeros((2, 8), "int32"))) == []


def test_outputs_in_half_precision(traced):
    subject = traced(models.Net, models.ROWS, head="policy")
    assert found(subject) == [("half_precision_output", "last"), ("float16_softmax", "last")]
    assert findings(subject)[0].remedy == "precision.head=float32"


def test_an_output_made_between_layers(traced):
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = L.Dense(16, name="dense")
            self.kernel = self.add_weight(shape=(16, 8), name="kernel")

        def call(self, x):
            return tf.matmul(self.dense(x), self.kernel)

    assert found(traced(Own, models.ROWS)) == [("half_precision_output", "own")]


class AddsLoss(L.Layer):
    def __init__(self, cast=False, **kwargs):
        super().__init__(**kwargs)
        self.cast = cast

    def call(self, x):
        wide = keras.ops.cast(x, "float32") if self.cast else x
        self.add_loss(1e-3 * keras.ops.mean(keras.ops.square(wide)))
        return x


def test_a_loss_added_in_half_precision(traced):
    def builder():
        return models.chain(
            AddsLoss(name="rounded"),
            AddsLoss(cast=True, name="whole"),
            L.Dense(16, activity_regularizer="l2", name="regularized"),
        )

    subject = traced(builder, models.ROWS)
    assert found(subject) == [
        ("half_precision_add_loss", "rounded"),
        ("half_precision_add_loss", "regularized"),
    ]
    rules = rules_of(findings(subject)[0])
    assert rules == [{"match": "rounded", "policy": "float32"}]
    remedied = found(traced(builder, models.ROWS, overrides=rules), "half_precision_add_loss")
    assert remedied == ["regularized"]


def test_softmax_in_float16_and_not_in_the_head(traced):
    def builder():
        return models.chain(
            L.Dense(16, activation="softmax", name="gate"),
            L.Softmax(axis=(1, 2), name="both_axes"),
            L.Lambda(tf.nn.log_softmax, name="logs"),
            L.Softmax(name="wide", dtype="float32"),
            shape=(6, 16),
        )

    paths = ["gate", "both_axes", "logs"]
    subject = traced(builder, models.SEQUENCES)
    assert found(subject) == [("float16_softmax", path) for path in paths]
    assert found(traced(builder, models.SEQUENCES, "mixed_bfloat16")) == []
    rules = [rule for finding in findings(subject) for rule in rules_of(finding)]
    assert found(traced(builder, models.SEQUENCES, overrides=rules)) == []


def test_what_stands_in_a_loop_is_found_too(traced):
    class Loops(L.Layer):
        def call(self, x):
            return tf.while_loop(
                lambda i, _: i < 3, lambda i, value: (i + 1, tf.nn.softmax(value)), (0, x)
            )[1]

    subject = traced(lambda: models.chain(Loops(name="loop")), models.ROWS)
    assert found(subject) == [("float16_softmax", "loop")]


class Sums(L.Layer):
    """A sum over the whole width by one of TensorFlow's operations, kept out of the output."""

    def __init__(self, reduce, **kwargs):
        super().__init__(**kwargs)
        self.reduce = reduce

    def call(self, x):
        return x[:, :16] + 0 * tf.reshape(self.reduce(x), [-1, 1])[:1]


def test_long_sums_in_float16(traced):
    def builder():
        inputs = keras.Input((LONG + 8,))
        parts = [
            Sums(lambda x: tf.reduce_sum(x, -1), name="sum"),
            Sums(lambda x: tf.reduce_mean(x, -1), name="raw_mean"),
            Sums(lambda x: tf.cumsum(x, -1)[:, -1], name="running"),
            Sums(lambda x: tf.reduce_sum(x[:, :LONG], -1), name="short"),
            Sums(lambda x: keras.ops.mean(x, -1), name="keras_mean"),
            Sums(lambda x: tf.reduce_sum(tf.cast(x, tf.float32), -1), name="cast", dtype="float32"),
        ]
        x = L.Concatenate()([part(inputs) for part in parts])
        x = L.LayerNormalization(name="norm")(inputs)[:, :16] + L.Dense(16, name="d")(x)
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    subject = traced(builder, WIDE)
    assert found(subject, "float16_reduction") == ["sum", "raw_mean", "running"]
    (first, *_) = [each for each in findings(subject) if each.kind == "float16_reduction"]
    assert str(LONG + 8) in first.message
    assert found(traced(builder, WIDE, "mixed_bfloat16"), "float16_reduction") == []


def test_tensorflow_s_sums_lose_what_is_said(traced):
    """The ground for the finding: over an outer axis the kernel stops growing."""
    ones = tf.ones((2 * LONG, 2), tf.float16)
    assert tf.reduce_sum(ones, 0).numpy()[0] == LONG
    assert tf.reduce_mean(ones, 0).numpy()[0] == 0.5
    assert keras.ops.mean(ones, 0).numpy()[0] == 1  # in float32 inside


def test_global_pooling_is_no_finding(traced):
    def builder():
        inputs = keras.Input((64, 64, 3))
        x = L.Conv2D(8, 3, padding="same", name="conv")(inputs)
        return keras.Model(inputs, L.Dense(8, name="head")(L.GlobalAveragePooling2D()(x)))

    assert found(traced(builder, np.zeros((4, 64, 64, 3), "float32"))) == []


class ScalesLate(L.Layer):
    def __init__(self, first=False, **kwargs):
        super().__init__(**kwargs)
        self.first = first

    def call(self, x):
        scale = keras.ops.cast(16**-0.5, x.dtype)
        query = x * scale if self.first else x
        scores = tf.matmul(query, x, transpose_b=True)
        weights = tf.nn.softmax(tf.cast(scores if self.first else scores * scale, tf.float32))
        return tf.matmul(tf.cast(weights, x.dtype), x)


class Similarity(L.Layer):
    """A scaled product of activations that no softmax follows."""

    def call(self, x):
        product = tf.matmul(x, x, transpose_b=True)
        return x + (product * keras.ops.cast(0.25, x.dtype))[..., :1]


class Temperature(L.Layer):
    """A product with weights, divided, and a softmax of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kernel = self.add_weight(shape=(16, 16), name="kernel")

    def call(self, x):
        scaled = tf.matmul(x, tf.cast(self.kernel, x.dtype)) / keras.ops.cast(2, x.dtype)
        return tf.cast(tf.nn.softmax(tf.cast(scaled, tf.float32)), x.dtype)


def test_attention_that_scales_after_multiplying(traced):
    def builder():
        return models.chain(
            ScalesLate(name="late"),
            ScalesLate(first=True, name="early"),
            Similarity(name="similarity"),
            Temperature(name="temperature"),
            shape=(6, 16),
        )

    kind = "attention_multiplies_first"
    subject = traced(models.attention, models.SEQUENCES)
    assert found(subject) == [(kind, "mha")]
    (finding,) = findings(subject)
    rules = rules_of(finding)
    assert found(traced(models.attention, models.SEQUENCES, overrides=rules)) == []
    assert found(traced(models.attention, models.SEQUENCES, "mixed_bfloat16")) == []
    assert found(traced(builder, models.SEQUENCES), kind) == ["late"]


def test_attention_with_dropout_scales_first_and_has_its_softmax_in_float16(traced):
    def builder():
        return models.attention(dropout=0.1)

    subject = traced(builder, models.SEQUENCES)
    ((kind, path),) = found(subject)
    assert kind == "float16_softmax"
    assert path.startswith("mha/softmax")


class Total(keras.metrics.Metric):
    def __init__(self, name="total"):
        super().__init__(name=name)
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")

    def update_state(self, _labels, predictions, sample_weight=None):
        self.total.assign_add(tf.cast(tf.reduce_sum(predictions), "float32"))

    def result(self):
        return self.total.value


def test_a_metric_of_one_s_own_that_gets_half_precision(traced):
    subject = traced(lambda: models.only_trains(Total()), models.ROWS)
    assert "half_precision_metric" in dict(found(subject))
    (finding,) = [each for each in findings(subject) if each.kind == "half_precision_metric"]
    assert "total (Total)" in finding.message
    kept = models.only_trains(keras.metrics.MeanSquaredError(name="keras_s"))
    assert "half_precision_metric" not in dict(found(traced(lambda: kept, models.ROWS)))
