"""`mpt doctor data`, and what a report says of a run that waited for its data."""

import json
import os
import re
from pathlib import Path

import pytest

from mpt import device_peaks, reporting
from mpt.device import Device
from mpt.telemetry import peaks

TINY = ("model=mlp", "model.hidden=[8]", "batch_size=16", "device=cpu", "telemetry.peak=false")
SLOW = """
import time
import numpy as np
import tensorflow as tf

def slow():
    def late(row):
        time.sleep(0.02)
        return np.float32([row, 1])
    def load(row):
        x = tf.numpy_function(late, [row], tf.float32)
        return tf.ensure_shape(x, (2,)), tf.cast(row % 2, tf.int32)
    return tf.data.Dataset.range(48).map(load)
"""
BY_HAND = ("--allow", "slow.py", "dataset=python", "dataset.function=slow.py:slow")


@pytest.fixture
def slow(tmp_path):
    """A module whose dataset gives 50 examples a second."""
    (tmp_path / "slow.py").write_text(SLOW)


def test_the_speed_of_a_pipeline_is_told(mpt, slow):
    words = ("dataset.classes=2", "dataset.examples=48", "batch_size=4")
    done = mpt("doctor", "data", *BY_HAND, *words, "--seconds", "2", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["dataset"], found["batch_size"], found["inputs"]) == ("python", 4, "2 float32")
    assert found["batch_bytes"] == 4 * (2 * 4 + 4)
    assert 25 < found["examples_per_second"] <= 50
    assert found["batch_ms"]["p90"] >= found["batch_ms"]["median"] > 60
    expected = found["batch_bytes"] * found["examples_per_second"] / 4
    assert found["bytes_per_second"] == pytest.approx(expected)
    assert found["batches"] >= 10
    assert found["run"] is None
    assert os.listdir() == ["slow.py"] or sorted(os.listdir()) == ["__pycache__", "slow.py"]


def test_data_of_a_folder_of_configurations(mpt, tmp_path):
    (tmp_path / "mine/dataset").mkdir(parents=True)
    few = "defaults: [digits, _self_]\nexamples: 48\n"
    (tmp_path / "mine/dataset/few.yaml").write_text(few)
    words = ("--config-dir", "mine", "dataset=few", "batch_size=8", "--seconds", "1", "--json")
    done = mpt("doctor", "data", *words)
    assert done.code == 0, done.err
    assert json.loads(done.out)["inputs"] == "8x8x1 float32"


def test_a_run_that_waited_says_so_and_is_held_against_its_data(mpt, slow, monkeypatch):
    monkeypatch.setattr(reporting, "WORTH_SAYING_SECONDS", 0.1)
    words = ("dataset.classes=2", "dataset.examples=48", "trainer.warmup_steps=2")
    steps = ("trainer.steps=8", "trainer.epochs=null", "trainer.log_every=2", "run_dir=run")
    done = mpt("train", *BY_HAND, *words, *TINY, *steps)
    assert done.code == 0, done.err
    said = re.search(r"diagnosis +Training waited for its data (\d+)% of the time\.", done.out)
    assert said
    assert int(said[1]) > 50
    report = json.loads(Path("run/report.json").read_text())
    (entry,) = report["diagnosis"]
    assert entry["data_wait_fraction"] == report["throughput"]["data_wait_fraction"]
    assert "mpt doctor data" in entry["message"]
    assert entry["message"] in mpt("show", "run").out
    done = mpt("doctor", "data", "run", "--allow", "slow.py", "--seconds", "1")
    assert done.code == 0, done.err
    lines = dict(re.findall(r"^(\S.*?)  +(.*)$", done.out, re.MULTILINE))
    assert {"data", "inputs", "batch", "first batch", "then", "speed", "processor"} <= set(lines)
    assert re.search(r"with these data they wait \d+% of the time", lines["the run"])


def test_a_run_that_did_not_wait_says_nothing(mpt):
    words = ("trainer.steps=8", "trainer.epochs=null", "trainer.log_every=2", "run_dir=run")
    assert mpt("train", "dataset=digits", *TINY, *words, "trainer.warmup_steps=2").code == 0
    assert json.loads(Path("run/report.json").read_text())["diagnosis"] == []
    done = mpt("doctor", "data", "run", "--seconds", "1", "--json")
    found = json.loads(done.out)
    assert found["dataset"] == "digits"
    assert found["run"]["needed_examples_per_second"] >= found["run"]["examples_per_second"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Work of a few milliseconds in all: what is measured is no peak, and is kept for no run."""
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "LARGEST": peaks.SMALLEST,
        "IMAGES": ((8, 4),),
        "MOST": peaks.FEWEST,
        "SMALL": 4096,
        "LARGE": 4096,
    }.items():
        monkeypatch.setattr(peaks, name, value)


def test_the_device_s_ceilings(mpt, small):
    done = mpt("doctor", "--peaks", "device=cpu", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["kind"] == "cpu"
    assert list(found["peaks"]) == ["float32", "bfloat16", "float16"]
    rates = ("matmul_flops_per_second", "convolution_flops_per_second")
    for of_dtype in found["peaks"].values():
        assert set(of_dtype) == {*rates, "bandwidth_bytes_per_second"}
        assert all(value > 0 for value in of_dtype.values())
    text = mpt("doctor", "--peaks", "device=cpu").out
    assert re.search(r"^bfloat16 +[\d.e+]+ [kMGT]?FLOP/s \([\d.]+x\) ", text, re.MULTILINE)
    assert os.listdir() == ["cache"]


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (None, ["float32", "bfloat16", "float16"]),
        ((7, 0), ["float32", "bfloat16", "float16"]),
        ((9, 0), ["float32", "tf32", "bfloat16", "float16"]),
    ],
)
def test_tensorfloat_is_measured_where_there_is_any(capability, expected):
    assert (
        device_peaks.dtypes(Device("gpu", "x", 1, capability, None, True, True, None)) == expected
    )


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ("doctor --peaks runs", "command line", "runs"),
        ("doctor dta", "command line", "did you mean 'data'"),
        ("doctor data dataset=digts", "dataset", "did you mean 'digits'"),
        ("doctor data dataset=image_folder dataset.path=absent", "dataset.path", "absent"),
        ("doctor data batch_size=100000", "batch_size", "larger than"),
        ("doctor data absent", "absent", "absent"),
        ("doctor data --quick", "command line", "allowed: --allow, --cfg, --config-dir"),
        ("doctor data -m seed=1,2", "command line", "not a sweep"),
        ("doctor data --seconds 0", "--seconds", "0"),
        ("doctor data batch_size=max", "batch_size", "mpt doctor data needs a number"),
    ],
)
def test_what_cannot_be_measured(mpt, words, where, says):
    done = mpt(*words.split())
    assert done.code == 2
    assert done.out == ""
    assert says in done.err
    assert where in done.err
    assert "Traceback" not in done.err
    assert os.listdir() == []


def test_its_help_does_not_wait_for_tensorflow(mpt_process):
    done = mpt_process("doctor", "--help", python=("-X", "importtime"))
    assert done.code == 0
    assert "mpt doctor data [RUN]" in done.out
    assert " tensorflow\n" not in done.err
    assert " hydra\n" not in done.err
