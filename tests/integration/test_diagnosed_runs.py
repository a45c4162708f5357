"""Runs that break say which layer broke, in every place where that is looked for."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpt.report.schema import json_schema

MODEL = """
import keras


class Square(keras.layers.Layer):
    def call(self, inputs):
        return inputs * inputs


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide = keras.layers.Dense(4, name="wide", bias_initializer=BIAS)
        self.square = Square(name="square")

    def build(self, shape):
        self.wide.build(shape)
        self.built = True

    def call(self, inputs):
        return self.square(self.wide(inputs))


BIAS = keras.initializers.Constant(300.0)


def build(shape, classes):
    inputs = keras.Input(shape)
    x = Block(name="block")(keras.layers.Flatten()(inputs))
    x = keras.layers.LayerNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax", name="head")(x))
"""
TINY = (
    *("trainer.steps=12", "trainer.log_every=4", "trainer.warmup_steps=0", "batch_size=20"),
    *("dataset.examples=200", "telemetry.peak=false", "loss_scale.max_consecutive_skips=6"),
    *("precision=mixed_float16", "--allow", "broken.py"),
    *("model=python", "model.function=broken.py:build"),
)


def report_of(folder):
    report = json.loads((Path(folder) / "report.json").read_text())
    jsonschema.validate(report, json_schema())
    return report


@pytest.mark.parametrize(
    "jit",
    [pytest.param("false", id="plain"), pytest.param("true", id="xla", marks=pytest.mark.slow)],
)
def test_a_forward_overflow_is_told_everywhere_and_its_remedy_holds(mpt, tmp_path, jit):
    (tmp_path / "broken.py").write_text(MODEL)
    words = ("train", *TINY, f"trainer.jit_compile={jit}")
    done = mpt(*words, f"run_dir={tmp_path}/broken")
    assert done.code == 3, done.err
    report = report_of(tmp_path / "broken")
    entry, rule = report["diagnosis"]
    known = {
        "step": 1,
        "path": "block/square",
        "class": "Square",
        "direction": "forward",
        "dtype": "float16",
        "float32_finite": True,
        "bad_rows": [],
    }
    assert {key: entry[key] for key in known} == known
    assert 300 < entry["largest_finite"] < 400
    headline = "step 1: Square 'block/square' overflowed going forward"
    assert entry["message"].startswith(f"{headline}\n")
    assert done.err.count(headline) == 1
    assert (tmp_path / "broken/train.log").read_text().count(f"warning: {headline}") == 1
    assert report["reason"]["rule"] == "max_consecutive_skips"
    assert rule["message"] == report["reason"]["message"]
    assert headline in rule["message"], "what to try follows from what was found"
    events = EventAccumulator(str(tmp_path / "broken/tensorboard"))
    (text,) = events.Reload().Tensors("diagnosis/nonfinite")
    assert (text.step, "block/square" in text.tensor_proto.string_val[0].decode()) == (1, True)
    assert report["wall_seconds"]["diagnose"] > 0

    (override,) = [word for word in shlex.split(entry["message"]) if "overrides=[" in word]
    assert mpt(*words, f"run_dir={tmp_path}/mended", override).code == 0
    mended = report_of(tmp_path / "mended")
    assert (mended["status"], mended["diagnosis"]) == ("completed", [])
    assert mended["wall_seconds"]["diagnose"] is None


def test_an_overflow_that_the_scale_handles_is_counted_and_no_more(mpt, tmp_path):
    (tmp_path / "broken.py").write_text(MODEL.replace("300.0", "1.0"))
    scale = ("loss_scale.initial_scale=16777216", "loss_scale.backoff_factor=0.01")
    done = mpt("train", *TINY, *scale, f"run_dir={tmp_path}/run")
    assert done.code == 0, done.err
    report = report_of(tmp_path / "run")
    assert report["loss_scale"]["skipped_steps"] > 0
    assert report["diagnosis"] == []
    assert "step 1:" not in done.err


@pytest.mark.slow
def test_two_replicas_share_one_capture():
    script = Path(__file__).with_name("mirrored_capture.py")
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["captured_after"] == [0, 1, 1]
    assert result["step"] == 2
    assert result["batch_is_whole"]
    assert result["state_is_that_before"]
    assert (result["entry"]["direction"], result["entry"]["bad_rows"]) == ("input", [6])
    assert result["statistics_differ"], "else what follows shows nothing"
    assert result["left_alone"], "each replica has its own statistics back"
