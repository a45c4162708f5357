"""`mpt evaluate`: a trained model on its validation data, under its own policy or another."""

import json
import os
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from mpt.cli import main

WORDS = (
    *("train", "model=mlp", "model.hidden=[128,128]", "dataset.examples=400", "precision=float32"),
    *("device=cpu", "trainer.steps=40", "trainer.epochs=null", "telemetry.peak=false", "-q"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main([*WORDS, f"run_dir={run}"]) == 0
    return run


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*"))}


def test_the_policy_it_was_trained_in_gives_what_training_found(mpt, trained):
    before = files(trained)
    done = mpt("evaluate", str(trained), "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    report = json.loads((trained / "report.json").read_text())
    assert content["policy"] == content["trained"]["policy"] == "float32"
    for name, value in content["metrics"].items():
        assert value == report["metrics"]["final"][f"validation/{name}"], name
    assert content["examples"] == report["data"]["validation_examples"]
    assert files(trained) == before
    assert os.listdir() == []


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_another_policy(mpt, trained, policy):
    done = mpt("evaluate", str(trained), f"precision={policy}", "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["policy"] == policy
    found, before = content["metrics"], content["trained"]["metrics"]
    assert found["loss"] != before["loss"]
    assert found["loss"] == pytest.approx(before["loss"], rel=0.05)
    assert found["accuracy"] == pytest.approx(before["accuracy"], abs=0.05)


def test_it_is_what_keras_says_of_the_saved_model(mpt, trained, compose):
    content = json.loads(mpt("evaluate", str(trained), "--json", "batch_size=32").out)
    from mpt.data import digits

    data = digits.build(batch_size=32, seed=0, examples=400)
    model = keras.models.load_model(trained / "model.keras", compile=False)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    batches = list(data.validation.take(data.validation_batches))
    x, y = (
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*batches, strict=True)
    )
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert content["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert content["metrics"]["accuracy"] == pytest.approx(accuracy)


def test_what_it_prints(mpt, trained):
    done = mpt("evaluate", str(trained), "precision=mixed_bfloat16")
    assert done.code == 0
    head, *rows = done.out.splitlines()
    assert head.startswith("examples     80 (80 scans, evenly spaced), ")
    assert rows[0].split() == ["mixed_bfloat16", "trained,", "float32", "difference"]
    assert [row.split()[0] for row in rows[1:]] == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "takes one run"),
        (["@", "@"], "takes one run"),
        (["absent"], "There is no such folder.\n  where:   absent\n"),
        (["/tmp"], "There is no run in this folder: no .hydra/config.yaml"),
        (["@", "precision=float7"], "precision=float7"),
        (["@", "optimizer.learning_rate=1"], "no place in mpt evaluate"),
        (["@", "precision.nothing=1"], "precision.nothing"),
        (["@", "dataset.validation_fraction=0"], "no validation examples"),
        (["@", "batch_size=0"], "batch_size"),
        (["@", "--jsn"], "did you mean '--json'?"),
    ],
)
def test_bad_input(mpt, trained, words, says):
    done = mpt("evaluate", *(str(trained) if word == "@" else word for word in words))
    assert done.code == 2
    assert says in done.err
    assert done.err.count("error: ") == 1
    assert os.listdir() == []


def test_a_run_without_a_model(mpt, trained, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    config = (trained / ".hydra" / "config.yaml").read_text()
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text(config)
    done = mpt("evaluate", "run")
    assert done.code == 2
    assert "There are no weights" in done.err


class TestExport:
    def test_it_gives_what_the_keras_model_gives(self, mpt, trained, tmp_path):
        import tensorflow as tf

        done = mpt("export", str(trained), "--to", "serving/1")
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"saved model: {tmp_path}/serving/1"
        model = keras.models.load_model(trained / "model.keras", compile=False)
        x = np.random.default_rng(0).random((5, *model.input_shape[1:]), "float32")
        served = tf.saved_model.load(str(tmp_path / "serving/1")).signatures["serving_default"]
        (outputs,) = served(tf.constant(x)).values()
        np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)
        assert os.listdir("serving") == ["1"]

    def test_one_that_differs_is_not_kept(self, mpt, trained, monkeypatch):
        monkeypatch.setattr("mpt.exporting.export.TOLERANCE", {"float32": -1.0})
        done = mpt("export", str(trained), "--to", "out")
        assert done.code == 1
        assert "differs from the Keras model" in done.err
        assert os.listdir() == []

    def test_json(self, mpt, trained, tmp_path):
        done = mpt("export", str(trained), "--to", "out", "--json")
        assert done.code == 0, done.err
        content = json.loads(done.out)
        assert (content["format"], content["path"]) == ("saved_model", f"{tmp_path}/out")
        assert content["difference"] <= content["allowed_difference"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ([], "takes one run"),
            (["@", "--to", "there"], "is there already"),
            (["@", "--to", "there", "--format", "tflite"], "is there already"),
            (["@", "--format", "tflite", "--to", f"{__file__}/out"], "cannot be written"),
            (["@", "--format", "tf"], "--format tf is not a choice"),
            (["@", "--format", "tflite", "precision=float16"], "computes in float32"),
            (["@", "--format", "tflite", "precision.policy=float16"], "computes in float32"),
        ],
    )
    def test_bad_input(self, mpt, trained, words, says):
        Path("there").mkdir()
        done = mpt("export", *(str(trained) if word == "@" else word for word in words))
        assert (done.code, done.err.count("error: ")) == (2, 1)
        assert says in done.err


ODD = """
import keras
import tensorflow as tf


@keras.saving.register_keras_serializable()
class Odd(keras.layers.Layer):
    def call(self, x):
        return tf.math.erfinv(tf.tanh(x) / 2)


def build(shape, classes):
    x = keras.Input(shape)
    y = keras.layers.Dense(8)(keras.layers.Flatten()(x))
    return keras.Model(x, keras.layers.Dense(classes, activation="softmax")(Odd()(y)))
"""


def interpreter_of(file):
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_path=str(file))


class TestTfliteExport:
    def test_it_gives_what_the_keras_model_gives_in_half_the_space(self, mpt, trained, tmp_path):
        done = mpt("export", str(trained), "--format", "tflite", "--to", "lite/digits.tflite")
        assert (done.code, done.err) == (0, "")
        *_, size, last = done.out.splitlines()
        file = tmp_path / "lite" / "digits.tflite"
        assert last == f"tflite model: {file}"
        assert size == "size         55 KiB; the weights in float32 take 102 KiB"
        assert os.listdir("lite") == ["digits.tflite"]
        assert file.stat().st_size == pytest.approx(55 * 1024, abs=512)
        model = keras.models.load_model(trained / "model.keras", compile=False)
        x = np.random.default_rng(0).normal(size=(5, *model.input_shape[1:])).astype("float32")
        interpreter = interpreter_of(file)
        runner = interpreter.get_signature_runner("serving_default")
        (name,) = runner.get_input_details()
        (outputs,) = runner(**{name: x}).values()
        expected = np.asarray(model(x, training=False))
        np.testing.assert_allclose(outputs, expected, atol=2e-3)
        assert np.abs(outputs - expected).max() > 0, "the weights are rounded"
        halves = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] is np.float16]
        assert len(halves) >= 3

    def test_in_the_runs_folder_as_json(self, mpt, trained):
        done = mpt("export", str(trained), "--format", "tflite", "--json")
        assert (done.code, done.err) == (0, "")
        content = json.loads(done.out)
        file = trained / "model_float16.tflite"
        assert (content["path"], content["bytes"]) == (str(file), file.stat().st_size)
        assert (content["format"], content["policy"]) == ("tflite", "float32")
        assert content["float32_weights_bytes"] == 4 * (64 * 128 + 128 * 129 + 129 * 10 + 128)
        assert 0 < content["difference"] <= content["allowed_difference"]
        assert content["allowed_difference"] == 1e-2 * content["largest_output"]
        again = mpt("export", str(trained), "--format", "tflite")
        file.unlink()
        assert again.code == 2
        assert "is there already" in again.err

    def test_weights_beyond_float16_are_not_kept(self, mpt, trained):
        shutil.copytree(trained, "run")
        model = keras.models.load_model("run/model.keras", compile=False)
        _, one, two, _ = model.layers
        one.set_weights([1e8 * part for part in one.get_weights()])  # a relu passes factors on
        two.kernel.assign(two.kernel / 1e8)
        model.save("run/model.keras")
        before = files("run")
        done = mpt("export", "run", "--format", "tflite", "--to", "a/b.tflite")
        assert done.code == 1
        assert "differs from the Keras model" in done.err
        assert os.listdir() == ["run"]
        assert files("run") == before

    def test_an_operation_that_tflite_does_not_have(self, mpt):
        Path("odd.py").write_text(ODD)
        words = [word for word in WORDS if not word.startswith("model")]
        model = ("model=python", "model.function=odd.py:build", "--allow", "odd.py", "run_dir=run")
        assert mpt(*words, *model).code == 0
        before = files(".")
        done = mpt("export", "run", "--format", "tflite", "--to", "a/odd", "--allow", "odd.py")
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(
            "error: TFLite has no operations for these of the model's: Erfinv\n"
        )
        assert done.err.count("\n") == 3
        assert {file for file in files(".") if "__pycache__" not in str(file)} == set(before)
