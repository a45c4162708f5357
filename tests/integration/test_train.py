"""`mpt train` from the command line to the run folder, with the real runner."""

import json
import signal
import subprocess
import sys
import time
import zipfile
from importlib import resources
from pathlib import Path

import jsonschema
import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpt.data import digits
from mpt.run_folder import read_metrics

SCHEMA = json.loads(resources.files("mpt.report").joinpath("run_report.schema.json").read_text())
MPT_TRAIN = (sys.executable, "-m", "mpt", "train")
TINY = (
    "trainer.steps=6",
    "trainer.log_every=2",
    "trainer.warmup_steps=0",
    "dataset.examples=200",
    "batch_size=20",
    "telemetry.peak=false",
)


def report_of(folder):
    report = json.loads((Path(folder) / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report


def events_of(folder):
    accumulator = EventAccumulator(str(Path(folder) / "tensorboard"))
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A smoke run in mixed_float16, as a process of its own."""
    folder = tmp_path_factory.mktemp("smoke")
    done = subprocess.run(
        [*MPT_TRAIN, "trainer=smoke", "precision=mixed_float16", f"run_dir={folder}/run"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done, folder / "run"


def test_a_smoke_run_checks_itself_and_ends_with_its_folder(smoke):
    done, folder = smoke
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"run: {folder}"
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    report = report_of(folder)
    assert report["status"] == "completed"
    checks = {check["name"]: check["passed"] for check in report["smoke_checks"]}
    assert checks == dict.fromkeys(
        ("policy_applied", "loss_scaled", "loss_finite", "tags_written"), True
    )


@pytest.mark.slow
def test_deterministic_runs_are_equal_to_the_bit_and_read_no_clock(tmp_path, mpt_process):
    weights = []
    for name in ("one", "two"):
        done = mpt_process("train", *TINY, "device.deterministic=true", f"run_dir={name}")
        assert done.code == 0, done.err
        assert "data_wait" not in done.out
        report = report_of(tmp_path / name)
        assert report["throughput"]["data_wait_fraction"] is None
        weights.append(keras.saving.load_model(tmp_path / name / "model.keras").get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_report_tells_what_ran(smoke):
    report = report_of(smoke[1])
    assert report["precision"]["policy"] == "mixed_float16"
    table = report["precision"]["table"]
    assert {row["variable_dtype"] for row in table} == {"float32"}
    assert [row["compute_dtype"] for row in table if row["source"] == "head"] == ["float32"]
    assert any(row["compute_dtype"] == "float16" for row in table)
    assert (report["loss_scale"]["mode"], report["loss_scale"]["initial"]) == ("dynamic", 32768)
    assert report["training"]["steps"] == 30
    assert report["throughput"]["measured_steps"] == 25
    assert report["throughput"]["step_time_ms"]["median"] > 0
    assert report["memory"]["device_peak_bytes"] is None, "a CPU does not tell"
    assert report["memory"]["host_rss_peak_bytes"] > 1e8
    assert report["model"]["forward_flops_per_example"] == 2 * 36 * 32 * 9 + 2 * 36 * 32 * 10
    assert 0 < report["compute"]["utilization"] < 1
    walls = report["wall_seconds"]
    assert walls["total"] >= walls["startup"] + walls["train"] + walls["evaluate"] + walls["save"]
    for path in report["artifacts"].values():
        assert (smoke[1] / path).exists(), path


def test_the_event_file_holds_what_metrics_jsonl_holds(smoke):
    events = events_of(smoke[1])
    rows = read_metrics(smoke[1])
    tags = {key for row in rows for key in row} - {"step", "epoch", "wall_seconds"}
    of_the_report = {"report/examples_per_second", "report/host_rss_peak_mib"}  # for HParams
    assert tags | of_the_report == set(events.Tags()["scalars"])
    assert {"loss_scale/scale", "gradients/headroom_bits", "memory/host_rss_bytes"} <= tags
    for tag in tags:
        in_rows = [(row["step"], row[tag]) for row in rows if tag in row]
        in_events = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in in_rows] == [step for step, _ in in_events]
        np.testing.assert_allclose(
            [v for _, v in in_rows], [v for _, v in in_events], rtol=1e-5, err_msg=tag
        )


def test_the_model_loads_in_plain_keras_and_predicts_the_same(smoke):
    script = """
import sys
sys.modules["mpt"] = None
import keras, numpy as np
from sklearn.datasets import load_digits
model = keras.models.load_model(sys.argv[1])
d = load_digits()
x = ((d.images - 4.884) / 6.017).astype("float32")[4::5, ..., None]
classes = model.predict(x, verbose=0).argmax(-1)
print(type(model.optimizer).__name__, (classes == d.target[4::5]).mean())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(smoke[1] / "model.keras")],
        capture_output=True,
        text=True,
        check=True,
        cwd=smoke[1],
    )
    optimizer, accuracy = done.stdout.split()[-2:]
    assert optimizer == "Adam"
    final = report_of(smoke[1])["metrics"]["final"]
    assert float(accuracy) == pytest.approx(final["validation/accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("policy", "variables", "computed"),
    [
        ("float32", "float32", "float32"),
        ("tf32", "float32", "float32"),
        ("mixed_float16", "float32", "float16"),
        ("mixed_bfloat16", "float32", "bfloat16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float16", "float16", "float16"),
        ("float64", "float64", "float64"),
    ],
)
def test_every_policy_trains(mpt, tmp_path, policy, variables, computed):
    result = mpt("train", f"precision={policy}", f"run_dir={tmp_path}/r", *TINY)
    assert result.code == 0, result.err
    report = report_of(tmp_path / "r")
    row = next(row for row in report["precision"]["table"] if row["class"] == "Conv2D")
    assert (row["variable_dtype"], row["compute_dtype"]) == (variables, computed)
    losses = [row["train/loss"] for row in read_metrics(tmp_path / "r") if "train/loss" in row]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_the_same_command_gives_the_same_run(mpt, tmp_path):
    for name in ("a", "b"):
        assert mpt("train", f"run_dir={tmp_path}/{name}", *TINY).code == 0
    first, second = (read_metrics(tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one["step"] == other["step"]
        for tag in one:
            if tag.startswith(("train/", "validation/", "gradients/", "loss_scale/")):
                assert one[tag] == other[tag], tag
    assert report_of(tmp_path / "a")["config_hash"] == report_of(tmp_path / "b")["config_hash"]


def test_steps_per_execution_changes_no_number(mpt, tmp_path):
    for k in (1, 3):
        words = (f"run_dir={tmp_path}/{k}", f"trainer.steps_per_execution={k}", *TINY)
        assert mpt("train", *words).code == 0
    one, three = (read_metrics(tmp_path / str(k)) for k in (1, 3))
    assert [r["train/loss"] for r in one] == [r["train/loss"] for r in three]
    assert report_of(tmp_path / "3")["execution"]["steps_per_execution"] == 3


@pytest.mark.slow
def test_xla_trains_with_stock_normalization(mpt, tmp_path):
    words = ("model=resnet", "dataset=synthetic", "dataset.shape=[8,8,3]", "trainer.steps=2")
    tiny = ("batch_size=4", "dataset.examples=20", "telemetry.peak=false", "model.depth=8")
    for jit in ("true", "false"):
        words_ = (*words, *tiny, f"trainer.jit_compile={jit}", f"run_dir={tmp_path}/{jit}")
        assert mpt("train", *words_).code == 0
    compiled, plain = (report_of(tmp_path / jit) for jit in ("true", "false"))
    assert compiled["execution"]["jit_compile"] is True
    assert compiled["precision"]["fused_batch_norm"] is False
    assert plain["precision"]["fused_batch_norm"] is True
    assert compiled["metrics"]["final"]["train/loss"] == pytest.approx(
        plain["metrics"]["final"]["train/loss"], rel=1e-3
    )


def test_a_diverging_run_stops_with_its_reason(mpt, tmp_path):
    result = mpt(
        "train",
        f"run_dir={tmp_path}/r",
        "optimizer=sgd",
        "optimizer.learning_rate=1e30",
        "loss_scale.max_consecutive_skips=4",
        *TINY,
        "trainer.steps=100",
    )
    assert result.code == 3
    report = report_of(tmp_path / "r")
    assert (report["status"], report["exit_code"]) == ("diverged", 3)
    assert report["reason"]["rule"] == "max_consecutive_skips"
    assert report["loss_scale"]["max_consecutive_skips"] >= 4
    first, last = report["diagnosis"][0], report["diagnosis"][-1]
    assert (first["direction"], first["float32_finite"]) == ("forward", False)
    assert last["message"] == report["reason"]["message"]
    assert " steps in a row were skipped for non-finite gradients; step " in last["message"]
    assert "lower optimizer.learning_rate" in last["message"]
    assert report["training"]["steps"] < 100


def test_early_stopping_and_a_callback_end_a_run_well(mpt, tmp_path):
    slow = ("optimizer.learning_rate=0", "trainer.steps=100", "trainer.eval_every=1")
    patience = "trainer.early_stopping.patience=2"
    assert mpt("train", f"run_dir={tmp_path}/e", *TINY, *slow, patience).code == 0
    report = report_of(tmp_path / "e")
    assert (report["status"], report["training"]["steps"]) == ("stopped_early", 3)
    callback = (
        "trainer.callbacks=[{_target_: keras.callbacks.EarlyStopping, monitor: val_loss,"
        " patience: 1}]"
    )
    assert mpt("train", f"run_dir={tmp_path}/c", *TINY, *slow, callback).code == 0
    report = report_of(tmp_path / "c")
    assert (report["status"], report["reason"]["rule"]) == ("stopped_early", "callback")


@pytest.mark.parametrize("patience", ["null", "1"])
def test_the_report_describes_the_averaged_weights_that_are_saved(mpt, tmp_path, patience):
    words = ("optimizer.ema=true", "trainer.steps=40", "trainer.eval_every=15")
    early = (f"trainer.early_stopping.patience={patience}", "trainer.early_stopping.min_delta=9")
    assert mpt("train", f"run_dir={tmp_path}/r", *TINY, *words, *early).code == 0
    report = report_of(tmp_path / "r")
    assert report["status"] == ("completed" if patience == "null" else "stopped_early")
    model = keras.saving.load_model(tmp_path / "r" / "model.keras")
    data = digits.build(batch_size=40, seed=0, examples=200)
    loss, accuracy = model.evaluate(data.validation, steps=1, verbose=0)
    final = report["metrics"]["final"]
    assert final["validation/accuracy"] == pytest.approx(accuracy)
    assert final["validation/loss"] == pytest.approx(loss, rel=1e-5)


def test_a_callback_s_checkpoint_loads_in_plain_keras_and_needs_permission(mpt, tmp_path):
    callback = "trainer.callbacks=[{_target_: keras.callbacks.ModelCheckpoint, filepath: ck.keras}]"
    refused = mpt("train", f"run_dir={tmp_path}/r", *TINY, callback)
    assert refused.code == 2
    assert "--allow keras.callbacks" in refused.err
    words = ("--allow", "keras.callbacks", f"run_dir={tmp_path}/r", "precision=mixed_float16")
    assert mpt("train", *TINY, callback, *words).code == 0
    config = zipfile.ZipFile(tmp_path / "ck.keras").read("config.json").decode()
    assert "mpt" not in config
    assert "LossScale" not in config
    keras.config.set_dtype_policy("float32")  # as it is in a process of its own
    assert type(keras.saving.load_model(tmp_path / "ck.keras").optimizer) is keras.optimizers.Adam


def test_a_callback_that_deletes_folders_needs_permission(mpt, tmp_path):
    (tmp_path / "victim").mkdir()
    callback = "{_target_: keras.callbacks.BackupAndRestore, backup_dir: victim}"
    result = mpt("train", f"run_dir={tmp_path}/r", *TINY, f"trainer.callbacks=[{callback}]")
    assert result.code == 2
    assert (tmp_path / "victim").exists()


def test_a_monitored_training_tag_is_the_logged_one(mpt, tmp_path):
    words = ("dataset.validation_fraction=0", "monitor=train/loss", "trainer.eval_every=3")
    assert mpt("train", f"run_dir={tmp_path}/r", *TINY, *words).code == 0
    best = report_of(tmp_path / "r")["metrics"]["best"]
    rows = read_metrics(tmp_path / "r")
    assert best["value"] in [r["train/loss"] for r in rows if r["step"] == best["step"]]


def test_a_broken_smoke_check_fails_the_command(mpt, tmp_path):
    words = ("trainer=smoke", "precision=mixed_float16", "loss_scale=none", "telemetry.peak=false")
    result = mpt("train", *words, f"run_dir={tmp_path}/r", "trainer.steps=2")
    assert result.code == 1
    report = report_of(tmp_path / "r")
    assert (report["status"], report["reason"]["rule"]) == ("failed", "smoke")
    failed = [check["name"] for check in report["smoke_checks"] if not check["passed"]]
    assert failed == ["loss_scaled"]


@pytest.mark.slow
def test_out_of_memory_has_an_exit_code_of_its_own(mpt, tmp_path):
    result = mpt("train", "model=mlp", "model.hidden=[1000000000000]", f"run_dir={tmp_path}/r")
    assert result.code == 4
    assert "Out of memory at batch_size=128" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_init_from_starts_from_a_run_s_weights(mpt, tmp_path):
    assert mpt("train", f"run_dir={tmp_path}/a", *TINY, "trainer.steps=60").code == 0
    words = (f"init_from={tmp_path}/a", "optimizer.learning_rate=0", f"run_dir={tmp_path}/b")
    assert mpt("train", *words, *TINY).code == 0
    first, second = (report_of(tmp_path / name)["metrics"]["final"] for name in ("a", "b"))
    assert second["validation/loss"] == pytest.approx(first["validation/loss"], rel=1e-5)
    refused = mpt("train", f"init_from={tmp_path}/a", "model=mlp", f"run_dir={tmp_path}/c", *TINY)
    assert refused.code == 2
    assert "do not fit the model" in refused.err
    assert not (tmp_path / "c").exists()


def test_a_model_and_data_of_one_s_own(mpt, tmp_path):
    (tmp_path / "mine.py").write_text(
        """
import keras
import numpy as np
import tensorflow as tf

def model(shape):
    x = keras.Input(shape)
    y = keras.layers.Dense(16, activation="relu")(x)
    model = keras.Model(x, [keras.layers.Dense(1, name="a")(y), keras.layers.Dense(2, name="b")(y)])
    model.compile(loss=["mse", "mae"], loss_weights=[1.0, 0.5])
    return model

def data():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    both = tf.data.Dataset.from_tensor_slices((x, (x[:, :1], x[:, :2])))
    return both, both
"""
    )
    words = (
        "model=python",
        "model.function=mine.py:model",
        "dataset=python",
        "dataset.function=mine.py:data",
        "batch_size=16",
        "trainer.steps=40",
        "telemetry.peak=false",
        "precision=mixed_float16",
        f"run_dir={tmp_path}/r",
    )
    refused = mpt("train", *words)
    assert refused.code == 2
    assert "--allow" in refused.err
    result = mpt("train", *words, "--allow", "mine.py")
    assert result.code == 0, result.err
    report = report_of(tmp_path / "r")
    final = report["metrics"]["final"]
    assert {"validation/loss", "validation/a_loss", "validation/b_loss"} <= set(final)
    assert report["metrics"]["best"]["name"] == "validation/loss"
    heads = [row["path"] for row in report["precision"]["table"] if row["source"] == "head"]
    assert heads == ["a", "b"]


def test_a_train_step_without_a_scaled_loss_is_refused(mpt, tmp_path):
    (tmp_path / "own.py").write_text(
        """
import keras
import tensorflow as tf

class Unscaled(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(10, activation="softmax")

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 64)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {}

def build():
    return Unscaled()
"""
    )
    words = ("model=python", "model.function=own.py:build", "--allow", "own.py")
    result = mpt("train", *words, "precision=mixed_float16", f"run_dir={tmp_path}/r", *TINY)
    assert result.code == 2, result.err
    assert "scale_loss" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "r").exists()


def test_an_interrupt_stops_after_the_running_step_and_keeps_the_run(tmp_path):
    process = subprocess.Popen(
        [*MPT_TRAIN, f"run_dir={tmp_path}/r", "trainer.epochs=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    metrics = tmp_path / "r" / "metrics.jsonl"
    end = time.monotonic() + 90
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == f"run: {tmp_path}/r"
    report = report_of(tmp_path / "r")
    assert (report["status"], report["reason"]["message"]) == (
        "interrupted",
        "SIGINT was received",
    )
    assert (tmp_path / "r" / "model.keras").exists()


@pytest.mark.slow
def test_a_run_outlives_the_reader_of_its_output(tmp_path):
    process = subprocess.Popen(
        [*MPT_TRAIN, f"run_dir={tmp_path}/r", "trainer.steps=30", "trainer.epochs=null"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(timeout=90) == 0, err
    assert report_of(tmp_path / "r")["status"] == "completed"
    assert (tmp_path / "r" / "model.keras").exists()
    log = (tmp_path / "r" / "train.log").read_text()
    assert "stdout cannot be written any more: Broken pipe" in log


@pytest.mark.slow
def test_two_replicas_train_as_one_device_does(tmp_path):
    """Under MirroredStrategy over two logical CPU devices, in processes of their own."""
    losses = {}
    for strategy in ("none", "mirrored"):
        folder = tmp_path / strategy
        extra = ["device.logical_cpus=2"] if strategy == "mirrored" else []
        done = subprocess.run(
            [*MPT_TRAIN, f"device.strategy={strategy}", *extra, f"run_dir={folder}", *TINY],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report = report_of(folder)
        assert report["device"]["count"] == (2 if strategy == "mirrored" else 1)
        losses[strategy] = [row["train/loss"] for row in read_metrics(folder)]
    np.testing.assert_allclose(losses["mirrored"], losses["none"], rtol=1e-4)
