"""Rows, held against Keras's own counts and against what the layers really give."""

import inspection_models as models
import keras
import numpy as np
import pytest

from mpt import precision
from mpt.inspection.inspection import inspect
from mpt.numerics import tapped_step

L = keras.layers

CASES = {
    "cnn": (models.cnn, models.IMAGES),
    "attention": (models.attention, models.SEQUENCES),
    "nested": (models.nested, models.IMAGES),
    "subclassed": (models.Net, models.ROWS),
}


@pytest.mark.parametrize("name", CASES)
def test_dtypes_shapes_and_bytes_are_those_of_a_real_step(inspected, name):
    builder, x = CASES[name]
    subject = inspected(builder, x)
    rows = {row.path: row for row in inspect(subject).layers}
    batch = (x, np.zeros(4, "float32"))
    step = tapped_step(
        subject.model, batch, scale=1.0, reduce=lambda t: (t.dtype.name, t.shape.as_list(), t)
    )
    assert {call.path for call in step.calls} == {p for p, row in rows.items() if row.calls}
    for call in step.calls:
        dtype, shape, _ = call.outputs[0]
        assert (rows[call.path].output_dtype, rows[call.path].output_shape) == (dtype, [shape])
    leaves = {call.path: call for call in step.calls}
    for call in step.calls:
        if call.parent is not None:
            leaves.pop(call.parent.path, None)
    for path, call in leaves.items():
        assert rows[path].activation_bytes == sum(t.numpy().nbytes for _, _, t in call.outputs)


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_keras_s_and_each_counts_once(inspected, name):
    builder, x = CASES[name]
    subject = inspected(builder, x)
    inspection = inspect(subject)
    assert sum(row.parameters for row in inspection.layers) == subject.model.count_params()
    assert inspection.parameters == subject.model.count_params()
    for path, layer in precision.walk(subject.model):
        if not layer._layers:
            (row,) = [each for each in inspection.layers if each.path == path]
            assert row.parameters == layer.count_params()


def test_where_policies_come_from(inspected):
    def builder():
        inputs = keras.Input((8, 8, 3))
        x = L.Conv2D(8, 3, name="conv", dtype="mixed_bfloat16")(inputs)
        x = L.BatchNormalization(name="bn")(x)
        x = L.BatchNormalization(name="wide_bn")(x)
        x = L.Flatten(name="flatten")(x)
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    rules = [{"match": "wide_bn", "policy": "float32"}]
    rows = {r.path: r for r in inspect(inspected(builder, models.IMAGES, overrides=rules)).layers}
    assert {path: row.source for path, row in rows.items() if row.depth} == {
        "conv": "layer",
        "bn": "fused",
        "wide_bn": "override",
        "flatten": "global",
        "head": "head",
    }
    assert {path for path, row in rows.items() if row.fused} == {"bn", "wide_bn"}
    assert rows["wide_bn"].compute_dtype == rows["wide_bn"].output_dtype == "float32"


def test_nothing_is_fused_where_the_run_would_not(inspected):
    rows = inspect(inspected(models.nested, models.IMAGES, jit_compile=True)).layers
    assert not any(row.fused for row in rows)
    rows = inspect(inspected(models.nested, models.IMAGES, fused_batch_norm=False)).layers
    assert "fused" not in {row.source for row in rows}


def test_operations_have_rows_where_they_were_called(inspected):
    rows = inspect(inspected(models.nested, models.IMAGES)).layers
    assert [row.path for row in rows[:4]] == ["outer", "encoder", "encoder/conv", "encoder/bn"]
    assert [row.class_name for row in rows[4:7]] == ["Tanh", "Add", "Flatten"]
    tanh = rows[4]
    assert (tanh.kind, tanh.compute_dtype, tanh.output_dtype) == ("operation", None, "float16")
    assert tanh.activation_bytes == 4 * 8 * 8 * 8 * 2


def test_a_block_counts_what_it_makes_itself(inspected):
    rows = {row.path: row for row in inspect(inspected(models.Net, models.ROWS)).layers}
    assert rows["block0"].activation_bytes == 4 * 16 * 2  # the sum
    assert rows["net"].activation_bytes == 0  # what its last layer made


def test_what_only_passes_the_input_on_makes_nothing(inspected):
    def builder():
        inputs = keras.Input((16,))
        x = L.Identity(name="same")(inputs)
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    rows = {row.path: row for row in inspect(inspected(builder, models.ROWS, "float32")).layers}
    assert rows["same"].activation_bytes == 0
    assert rows["same"].output_shape == [[4, 16]]


def test_a_layer_that_is_not_called(inspected):
    rows = {r.path: r for r in inspect(inspected(models.attention, models.SEQUENCES)).layers}
    (softmax,) = [row for path, row in rows.items() if path.startswith("mha/softmax")]
    assert softmax.calls == 0
    assert softmax.activation_bytes is None
    assert rows["mha"].calls == 1


def test_a_layer_called_twice_keeps_both_outputs(inspected):
    def builder():
        shared = L.Dense(16, name="shared")
        inputs = keras.Input((16,))
        return keras.Model(inputs, L.Dense(2, name="head")(shared(shared(inputs))))

    rows = {row.path: row for row in inspect(inspected(builder, models.ROWS)).layers}
    assert rows["shared"].calls == 2
    assert rows["shared"].activation_bytes == 2 * (4 * 16 * 2)
