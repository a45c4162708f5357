"""The largest batch, found in processes whose memory is limited."""

import json
import sys
from dataclasses import asdict

import pytest

from mpt import batch_search, errors
from mpt.errors import ConfigurationError
from mpt.isolation import Job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a process's limit is Linux's"),
]

# Of each example 24 activations of 65536 numbers are kept for the backward pass, and little else.
MODEL = """
import keras

def build(shape, classes):
    inputs = keras.Input(shape)
    x = keras.layers.Dense(65536)(inputs)  # without weights to train there is no backward pass
    for _ in range(24):
        x = keras.layers.Activation("tanh")(x)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Reshape((1024, 64))(x))
    return keras.Model(inputs, keras.layers.Dense(classes, dtype="float32")(x))
"""
WORDS = [
    *("model=python", "model.function=wide.py:build", "device=cpu", "trainer.steps=2"),
    *("trainer.epochs=null", "dataset=synthetic", "dataset.shape=[8]", "dataset.examples=2000"),
    *("trainer.jit_compile=false", "telemetry.peak=false"),
]


def test_a_run_takes_all_examples_where_they_fit(mpt_process, tmp_path):
    done = mpt_process(
        *("train", "batch_size=max", "dataset=synthetic", "dataset.examples=12"),
        *("dataset.validation_fraction=0.25", "trainer.epochs=1", "run_dir=run"),
    )
    assert done.code == 0, done.err
    assert "batch_size=max: 9: all 9 training examples fit" in done.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["config"]["batch_size"] == "max"
    assert report["training"]["batch_size"] == 9
    assert report["training"]["steps"] == 1
    assert "all 9" in report["execution"]["choice_reasons"]["batch_size"]
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_where_nothing_fits_it_says_so_and_ends_with_4(mpt_process, tmp_path):
    done = mpt_process("train", "batch_size=max", "device=cpu", "device.memory_limit_mb=40")
    assert done.code == errors.OUT_OF_MEMORY
    assert "Not even a batch of 1 fits into device.memory_limit_mb=40" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.rglob("report.json")) == []


def test_memory_that_runs_out_beyond_the_search_ends_with_4(mpt_process, tmp_path):
    (tmp_path / "wide.py").write_text(MODEL)
    done = mpt_process(
        *("train", "--allow", "wide.py", *WORDS, "batch_size=800"),
        *("device.memory_limit_mb=900", "run_dir=run"),
    )
    assert done.code == errors.OUT_OF_MEMORY
    assert "Out of memory" in done.out + done.err
    assert "Traceback" not in done.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("oom", errors.OUT_OF_MEMORY)


def test_half_precision_takes_the_larger_batch_that_its_memory_promises(
    compose, tmp_path, monkeypatch
):
    """float32 keeps 4 bytes of each activation, bfloat16 2: nearly twice the batch fits."""
    (tmp_path / "wide.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_search, "START", 64)  # fewer tries
    monkeypatch.setattr(batch_search, "TOLERANCE", 0.25)
    found = {}
    for precision in ("float32", "mixed_bfloat16"):
        config = compose(
            *(*WORDS, f"precision={precision}", "batch_size=max"),
            *("device.memory_limit_mb=900", "run_dir=run"),
        )
        composed = dict.fromkeys(("config", "overrides", "hydra"), "{}")
        job = Job(asdict(config), "run", composed=composed, allow=("wide.py",))
        found[precision] = batch_search.settle(job).options["batch_size"]
    assert 1.4 < found["mixed_bfloat16"] / found["float32"] < 2.8, found


def test_the_runner_itself_does_not_search(compose):
    from mpt.preparation import prepare

    with pytest.raises(ConfigurationError, match="found by a search") as error:
        prepare(compose("batch_size=max"), ())
    assert error.value.where == "batch_size"
