"""What cannot be looked into is named, and its numbers are null, never 0."""

import inspection_models as models
import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.inspection.inspection import inspect

L = keras.layers


def parts(inspection):
    return {part.path: part for part in inspection.opaque}


def test_variables_that_keras_does_not_know(inspected):
    inspection = inspect(
        inspected(lambda: models.chain(models.UsesModule(name="module")), models.ROWS)
    )
    part = parts(inspection)["module"]
    assert "256 numbers" in part.what
    rows = {row.path: row for row in inspection.layers}
    assert rows["module"].parameters is None
    assert rows["module"].forward_flops == 2 * 16 * 16  # its operations are traced all the same
    assert inspection.flops.half < inspection.flops.total  # and they are in float32


def test_a_tf_function_that_hides_its_layers(inspected):
    inspection = inspect(
        inspected(lambda: models.chain(models.UsesFunction(name="compiled")), models.ROWS)
    )
    part = parts(inspection)["compiled"]
    assert part.hides == ["compiled/inside"]
    rows = {row.path: row for row in inspection.layers}
    hidden = rows["compiled/inside"]
    assert (hidden.forward_flops, hidden.activation_bytes, hidden.calls) == (None, None, None)
    assert rows["compiled"].forward_flops == 2 * 16 * 16
    chosen = [each for each in inspection.estimates if each.chosen]
    assert chosen[0].activations is None


def test_python_code_in_mid_step(inspected):
    inspection = inspect(
        inspected(lambda: models.chain(models.RunsPython(name="python")), models.ROWS)
    )
    assert any("forward FLOPs" in each for each in parts(inspection)["python"].missing)
    values = inspection.as_json()
    assert values["totals"]["forward_flops"] is None
    assert values["totals"]["half_precision_share"] is None
    assert all(row["forward_flops"] is None for row in values["layers"])
    assert values["totals"]["activation_bytes"] > 0


def test_a_lambda(inspected):
    inspection = inspect(
        inspected(lambda: models.chain(L.Lambda(tf.nn.relu, name="function")), models.ROWS)
    )
    assert parts(inspection)["function"].missing == ["dtypes inside"]


def test_a_saved_model(inspected, tmp_path):
    class Saved(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(tf.ones((16, 16)))

        @tf.function(input_signature=[tf.TensorSpec([None, 16])])
        def serve(self, x):
            return x @ self.weight

    module = Saved()
    tf.saved_model.save(module, str(tmp_path), signatures={"serve": module.serve})

    def builder():
        layer = L.TFSMLayer(str(tmp_path), call_endpoint="serve", dtype="float32", name="saved")
        inputs = keras.Input((16,))
        x = layer(inputs)
        return keras.Model(inputs, L.Dense(8, name="head")(x))

    inspection = inspect(inspected(builder, models.ROWS))
    assert "SavedModel" in parts(inspection)["saved"].what
    rows = {row.path: row for row in inspection.layers}
    assert rows["saved"].forward_flops == 2 * 16 * 16
    assert rows["saved"].output_dtype == "float32"


def test_a_layer_that_its_model_does_not_keep_track_of(inspected):
    class Box:
        def __init__(self, layer):
            self.layer = layer

    class Hides(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.box = Box(L.Dense(16, name="secret"))
            self.box.layer.build((None, 16))

        def call(self, x):
            return self.box.layer(x)

    inspection = inspect(inspected(lambda: models.chain(Hides(name="hides")), models.ROWS))
    assert "does not keep track" in parts(inspection)["hides/secret"].what
    (row,) = [row for row in inspection.layers if row.path == "hides/secret"]
    assert row.parameters is None
    assert row.forward_flops == 2 * 16 * 16


def test_a_model_with_a_train_step_and_no_call(inspected):
    inspection = inspect(inspected(models.only_trains, models.ROWS))
    assert "no call" in parts(inspection)["only"].what
    rows = {row.path: row for row in inspection.layers}
    assert inspection.flops.total is None
    assert rows["dense"].forward_flops is None
    assert rows["dense"].activation_bytes == 4 * 8 * 2  # the train_step is traced


def test_a_step_that_cannot_be_traced(inspected):
    class Eager(models.OnlyTrains):
        def train_step(self, data):
            return {"loss": float(tf.reduce_sum(data[0]))}

    def builder():
        model = Eager()
        model.compile(optimizer="adam")
        return model

    inspection = inspect(inspected(builder, models.ROWS, traceable=False))
    assert any("cannot be traced" in part.what for part in inspection.opaque)
    values = inspection.as_json()
    assert values["totals"]["activation_bytes"] is None
    assert values["totals"]["memory"]["float32"]["total"] is None
    assert values["totals"]["memory"]["float32"]["state"] > 0
    assert [row["output_dtype"] for row in values["layers"]] == [None, None]
    assert [row["calls"] for row in values["layers"]] == [None, None]


@pytest.mark.parametrize("builder", [models.Net, models.chain])
def test_nothing_is_opaque_in_a_plain_model(inspected, builder):
    assert inspect(inspected(builder, models.ROWS)).opaque == []


def test_seeds_and_statistics_are_no_foreign_variables(inspected):
    def builder():
        inputs = keras.Input((8, 8, 3))
        x = L.RandomFlip(name="flip")(inputs)
        x = L.BatchNormalization(name="norm")(x)
        x = L.Dropout(0.5, name="dropout")(x)
        return keras.Model(inputs, L.Dense(8, name="head")(L.Flatten()(x)))

    assert inspect(inspected(builder, np.zeros((4, 8, 8, 3), "float32"))).opaque == []
