"""`mpt bisect` with real trainings: it names the one layer that was planted to break float16."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mpt.report import read
from mpt.run_folder import read_metrics

MODELS = '''
import keras
from keras import ops


class SoftPlus(keras.layers.Layer):
    """log(1 + exp(x)), which overflows from x = 11.1 on in float16, and from 88.7 in float32."""

    def call(self, x):
        return ops.log(1 + ops.exp(x))


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lift = keras.layers.Dense(8, bias_initializer=keras.initializers.Constant(20))
        self.softplus = SoftPlus(name="softplus")
        self.norm = keras.layers.LayerNormalization()

    def call(self, x):
        return self.norm(self.softplus(self.lift(x)))


class Net(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.first = keras.layers.Dense(8, activation="relu")
        self.block = Block(name="block")
        self.flatten = keras.layers.Flatten()
        self.head = keras.layers.Dense(classes, activation="softmax")

    def call(self, x):
        return self.head(self.block(self.first(self.flatten(x))))


def subclassed(shape, classes):
    return Net(classes)


def functional(shape, classes):
    inputs = keras.Input(shape)
    x = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(inputs))
    x = keras.layers.Dense(8, bias_initializer=keras.initializers.Constant(20))(x)
    x = keras.layers.LayerNormalization()(SoftPlus(name="softplus")(x))
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))
'''


def test_a_short_training_is_the_beginning_of_the_long_one(tmp_path, compose):
    from mpt import runner

    config = compose(
        *("model=mlp", "model.hidden=[8]", "precision=float32", "trainer.steps=12"),
        *("optimizer.schedule.name=cosine", "trainer.log_every=3", "dataset.examples=200"),
        *("batch_size=50", "telemetry.tensorboard=false", "telemetry.peak=false"),
    )
    rows = {}
    for name, steps in {"long": None, "short": 6, "longer": 99}.items():
        folder = tmp_path / name
        if steps is not None:  # this one would stop the training
            callback = {"_target_": "keras.callbacks.EarlyStopping", "monitor": "loss"}
            config.trainer.callbacks = [{**callback, "patience": 0, "min_delta": 10.0}]
        assert runner.run(config, folder, command=[], composed={"config": ""}, steps=steps) == 0
        rows[name] = [row for row in read_metrics(folder) if "train/loss" in row]
        assert (folder / "model.keras").exists() == (steps is None)
    for short, long in zip(rows["short"], rows["long"], strict=False):
        for key in ("step", "train/loss", "train/accuracy", "optimizer/learning_rate"):
            assert short[key] == pytest.approx(long[key], rel=1e-5)
    assert [row["step"] for row in rows["short"]] == [3, 6]
    assert [row["step"] for row in rows["longer"]] == [3, 6, 9, 12]
    short = read(tmp_path / "short")
    assert (short.status, short.training.steps) == ("completed", 6)
    assert not [tag for tag in short.metrics.final if tag.startswith("validation/")]
    assert short.artifacts.get("model") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "planted"), [("functional", "softplus"), ("subclassed", "block/softplus")]
)
def test_the_planted_layer_alone(tmp_path, model, planted):
    (tmp_path / "models.py").write_text(MODELS)
    words = [
        *("--allow", "models.py", "model=python", f"model.function=models.py:{model}"),
        *("batch_size=32", "dataset.examples=400", "seed=1"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mpt", "bisect", *words, "precision=mixed_float16", "--steps=20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("bisection: ")
    folder = Path(last.removeprefix("bisection: "))
    record = json.loads((folder / "bisect.json").read_text())
    assert record["found"]["layers"] == [planted]
    assert record["found"]["minimal"] is True
    assert record["ranking"][0]["path"] == planted
    assert [trial["passed"] for trial in record["trials"]] == [True, False, True]
    assert [trial["outcome"]["steps"] for trial in record["trials"]][::2] == [20, 20]
    written = yaml.safe_load((folder / "precision" / "bisected.yaml").read_text())
    assert written["overrides"] == [{"match": planted, "policy": "float32"}]
    table = json.loads((folder / record["trials"][2]["folder"] / "report.json").read_text())
    dtypes = {row["path"]: row["compute_dtype"] for row in table["precision"]["table"]}
    kept = {path for path, dtype in dtypes.items() if dtype == "float32"}
    assert planted in kept
    assert len(kept - {planted}) == 1  # the head
