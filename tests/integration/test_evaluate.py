"""`mpt evaluate`: a trained model on its validation data, under its own policy or another."""

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from mpt.cli import main

WORDS = (
    *("train", "model=mlp", "model.hidden=[16]", "dataset.examples=400", "precision=float32"),
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
        (["absent"], "config.yaml"),
        (["@", "precision=float8"], "precision=float8"),
        (["@", "optimizer.learning_rate=1"], "no place in mpt evaluate"),
        (["@", "precision.nothing=1"], "precision.nothing"),
        (["@", "dataset.validation_fraction=0"], "no validation examples"),
        (["@", "batch_size=0"], "batch_size"),
        (["@", "--frobnicate"], "takes one run"),
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

    @pytest.mark.parametrize(
        ("words", "says"),
        [([], "takes one run"), (["@", "--to", "there"], "is there already")],
    )
    def test_bad_input(self, mpt, trained, words, says):
        Path("there").mkdir()
        done = mpt("export", *(str(trained) if word == "@" else word for word in words))
        assert (done.code, done.err.count("error: ")) == (2, 1)
        assert says in done.err
