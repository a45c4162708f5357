"""Label smoothing, class weights, averages, decay and callbacks, from the command line."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from mpt.data import digits

TINY = (
    *("model=mlp", "model.hidden=[16]", "dataset.examples=400", "batch_size=40", "device=cpu"),
    *("precision=float32", "trainer.epochs=null", "trainer.log_every=5", "telemetry.peak=false"),
    *("telemetry.tensorboard=false", "trainer.checkpoint_every=null", "-q"),
)


@pytest.fixture
def train(mpt):
    """`train(name, *words)` gives the rows that a run logged."""

    def call(name, *words):
        done = mpt("train", *TINY, *words, f"run_dir={name}")
        assert done.code == 0, done.err
        rows = Path(name, "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row for row in map(json.loads, rows)}

    return call


@pytest.mark.slow
def test_validation_sees_the_average_and_training_does_not(train):
    words = ("optimizer.ema=true", "+optimizer.ema_momentum=0.9", "optimizer.learning_rate=0.01")
    whole = train("whole", *words, "trainer.steps=30", "trainer.eval_every=15")
    short = train("short", *words, "trainer.steps=15", "trainer.eval_every=15")
    seldom = train("seldom", *words, "trainer.steps=30", "trainer.eval_every=30")
    # The short run ends with its average in place of its weights, and is evaluated with it.
    assert whole[15]["validation/loss"] == short[15]["validation/loss"]
    assert whole[30]["validation/loss"] == seldom[30]["validation/loss"]
    assert [row["train/loss"] for row in whole.values()] == [
        row["train/loss"] for row in seldom.values()
    ]
    plain = train("plain", *words[2:], "trainer.steps=30", "trainer.eval_every=15")
    assert plain[30]["train/loss"] == whole[30]["train/loss"]
    assert plain[15]["validation/loss"] != whole[15]["validation/loss"]


def test_the_loss_is_smoothed_and_weighted_as_keras_would(train):
    weights = {0: 3.0, 4: 0.5}
    given = ("label_smoothing=0.1", "class_weight={0: 3.0, 4: 0.5}", "optimizer.learning_rate=0")
    rows = train("run", *given, "trainer.steps=8", "trainer.log_every=8", "trainer.eval_every=8")
    data = digits.build(batch_size=40, seed=0, examples=400)
    model = keras.models.load_model("run/model.keras", compile=False)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)

    def of(batches, factors):
        found = []
        for x, y in batches:
            labels = y.numpy()
            share = np.array([factors.get(int(label), 1.0) for label in labels], np.float32)
            found.append((float(loss(np.eye(10)[labels], model(x), share)), len(labels)))
        return np.average([value for value, _ in found], weights=[count for _, count in found])

    assert rows[8]["train/loss"] == pytest.approx(of(data.train.take(8), weights), rel=1e-5)
    validation = of(data.validation.take(data.validation_batches), {})
    assert rows[8]["validation/loss"] == pytest.approx(validation, rel=1e-5)
    correct = [model(x).numpy().argmax(-1) == y.numpy() for x, y in data.train.take(8)]
    assert rows[8]["train/accuracy"] == pytest.approx(np.mean(correct))


DEEP = ("model.hidden=[16,16]", "model.dropout=0.2", "trainer.steps=12", "trainer.eval_every=12")


def test_blocks_that_are_computed_again_train_alike(mpt, train):
    (kept,) = train("kept", *DEEP, "trainer.log_every=12").values()
    words = (*DEEP, "trainer.log_every=12", r"trainer.rematerialize=['_\d$']")
    (again,) = train("again", *words).values()
    for tag in ("train/loss", "validation/loss"):
        assert again[tag] == pytest.approx(kept[tag], rel=1e-5)
    report = json.loads(Path("again/report.json").read_text())
    assert report["execution"]["rematerialized"] == ["_1", "_2"]
    assert "_1, _2: computed again" in mpt("show", "again").out


ADDS_LOSS = """
import keras

class Adds(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x * x))
        return x

def build():
    x = inputs = keras.Input((8, 8, 1))
    for layer in (keras.layers.Flatten(), keras.layers.Dense(8), Adds(name="block1_adds")):
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))
"""


def test_a_block_that_adds_a_loss_is_refused_in_our_own_words(mpt):
    Path("own.py").write_text(ADDS_LOSS)
    words = ("--allow", "own.py", "model=python", "model.function=own.py:build")
    done = mpt("train", *words, "trainer.rematerialize=['block']", "run_dir=run")
    assert done.code == 2
    assert "The layer 'block1_adds' in the block 'block' adds a loss" in done.err
    assert "trainer.rematerialize" in done.err
    assert "call()" not in done.err  # Keras's words
    assert not Path("run").exists()


@pytest.mark.slow
def test_blocks_are_computed_again_on_two_replicas_too(mpt_process, tmp_path):
    two = ("device=mirrored", "device.logical_cpus=2", *DEEP, "trainer.log_every=12")
    found = []
    for name, patterns in (("kept", "[]"), ("again", r"['_\d$']")):
        words = (*TINY, *two, f"trainer.rematerialize={patterns}", f"run_dir={tmp_path / name}")
        done = mpt_process("train", *words)
        assert done.code == 0, done.err
        found.append(json.loads((tmp_path / name / "report.json").read_text())["metrics"]["final"])
    assert found[0]["train/loss"] == pytest.approx(found[1]["train/loss"], rel=1e-5)
    assert found[0]["validation/loss"] == pytest.approx(found[1]["validation/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        (["label_smoothing=1"], "label_smoothing", "below 1"),
        (["label_smoothing=0.1", "loss=mean_squared_error"], "label_smoothing", "no labels"),
        (["class_weight=[1,2]"], "class_weight", "2 weights for 10 classes"),
        (["class_weight={10: 1}"], "class_weight.10", "0 to 9"),
        (["class_weight=balance"], "class_weight", "balanced"),
        (
            ["dataset.classes=null", "dataset=synthetic", "class_weight=balanced"],
            "class_weight",
            "no classes",
        ),
        (
            ["optimizer.weight_decay=0.1", "optimizer.weight_decay_exclude=[kernl]"],
            "optimizer.weight_decay_exclude[0]",
            "matches no variable",
        ),
    ],
)
def test_what_does_not_fit_is_refused(mpt, words, where, says):
    done = mpt("train", *TINY, *words, "trainer.steps=2", "run_dir=run")
    assert done.code == 2
    assert f"where:   {where}\n" in done.err
    assert says in done.err
    assert not Path("run").exists()
