"""Broken data from the command line to the report: left out by name, refused by name, awaited."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pytest

SCHEMA = json.loads(resources.files("mpt.report").joinpath("run_report.schema.json").read_text())
TINY = (
    "model=mlp",
    "model.hidden=[8]",
    "batch_size=16",
    "trainer.steps=6",
    "trainer.log_every=3",
    "telemetry.peak=false",
    "telemetry.tensorboard=false",
)
CUT, EMPTY = 20, 33
MINE = """
import time
from pathlib import Path
import numpy as np
import tensorflow as tf

def photos():
    files = sorted(str(file) for file in Path("photos").iterdir())
    def load(file, label):
        image = tf.io.decode_jpeg(tf.io.read_file(file), channels=3)
        return tf.ensure_shape(tf.cast(image, tf.float32) / 255, (16, 16, 3)), label
    labels = [int(Path(file).stem) % 3 for file in files]
    return tf.data.Dataset.from_tensor_slices((files, labels)).map(load, num_parallel_calls=2)

def endless_wait():
    def generate():
        for row in range(40):
            yield np.float32([row, 1]), row % 2
        time.sleep(3600)
    signature = (tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.int32))
    return tf.data.Dataset.from_generator(generate, output_signature=signature)
"""
PYTHON = ("--allow", "mine.py", "dataset=python")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 48 JPEG files, two of which are broken, beside a module that reads them."""
    import tensorflow as tf

    (tmp_path / "mine.py").write_text(MINE)
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(48):
        image = random.integers(0, 80, (16, 16, 3), np.uint8) + np.uint8(80 * (number % 3))
        content = tf.io.encode_jpeg(image).numpy()
        content = {CUT: content[: len(content) // 2], EMPTY: b""}.get(number, content)
        (folder / f"{number:02}.jpg").write_bytes(content)
    return folder


def report_of(folder: Path):
    report = json.loads((folder / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report


def test_rows_of_arrays_are_left_out_and_named(mpt, tmp_path):
    random = np.random.default_rng(0)
    x, y = random.random((64, 8), np.float32), np.arange(64) % 4
    x[[3, 17], 2], y[40] = np.nan, 9
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "x.npy", x)
    np.save(tmp_path / "data" / "y.npy", y)
    given = ("dataset=arrays", "dataset.path=data", "dataset.classes=4", *TINY)
    refused = mpt("train", *given)
    assert refused.code == 2
    assert "2 of 64 rows hold NaN or infinity: rows 3, 17" in refused.err
    done = mpt("train", *given, "dataset.on_error=skip", "run_dir=run")
    assert done.code == 0, done.err
    report = report_of(tmp_path / "run")
    names = ["row 3 of x.npy: NaN", "row 17 of x.npy: NaN", "row 40 of y.npy: label 9"]
    assert report["data"]["bad_rows"] == 3
    assert report["data"]["bad_row_names"] == names
    assert report["data"]["train_examples"] + report["data"]["validation_examples"] == 61
    assert report["loss_scale"]["skipped_steps"] == 0
    warning = f"3 of 64 rows (4.69%) are left out: {'; '.join(names)}"
    assert f"warning: {warning}" in done.err
    assert warning in report["warnings"]


def test_photographs_that_cannot_be_decoded(mpt, tmp_path, photos):
    given = (*PYTHON, "dataset.function=mine.py:photos", *TINY)
    done = mpt("train", *given, "dataset.on_error=skip", "run_dir=skipping")
    assert done.code == 0, done.err
    data = report_of(tmp_path / "skipping")["data"]
    assert (data["train_examples"], data["bad_rows"]) == (46, 2)
    first, second = data["bad_row_names"]
    assert first.startswith(f"example {CUT} of the training dataset: jpeg::Uncompress failed")
    assert second == f"example {EMPTY} of the training dataset: Input is empty."

    before = sorted(path.name for path in tmp_path.iterdir())
    counted = mpt("train", *given)
    assert counted.code == 2
    assert f"error: example {CUT} of the training dataset could not be read" in counted.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    met = mpt("train", *given, "dataset.classes=3", "run_dir=failing")  # nothing to count
    assert met.code != 0
    assert f"error: example {CUT} of the training dataset could not be read" in met.err
    assert "dataset.on_error=skip" in met.err
    assert "Traceback" not in met.err
    report = report_of(tmp_path / "failing")
    assert report["status"] == "failed"
    assert f"example {CUT} of the training dataset" in report["reason"]["message"]


@pytest.mark.slow
def test_where_only_deterministic_operations_are_allowed(mpt_process, tmp_path, photos):
    given = (*PYTHON, "dataset.function=mine.py:photos", "dataset.shuffle=true", *TINY)
    done = mpt_process(
        "train", *given, "dataset.on_error=skip", "device.deterministic=true", "run_dir=run"
    )
    assert done.code == 0, done.err
    assert report_of(tmp_path / "run")["data"]["bad_rows"] == 2


@pytest.mark.slow
def test_a_dataset_that_stalls_while_it_is_counted(mpt_process, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    given = (*PYTHON, "dataset.function=mine.py:endless_wait", "dataset.stall_seconds=2")
    done = mpt_process("train", *given, *TINY)
    assert done.code == 2
    assert done.out == ""
    first, *rest = done.err.splitlines()
    assert first.startswith("error: example 40 of the training dataset has not come in 2")
    assert "  where:   dataset.stall_seconds" in rest
    assert all(line.startswith("  ") for line in rest)
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["mine.py"]
