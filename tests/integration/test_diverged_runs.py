"""Runs that have gone wrong for good end by a rule, under default settings, and say which."""

import json
from pathlib import Path

import jsonschema
import pytest

from mpt.report.schema import json_schema

CODE = """
import keras
import numpy as np
import tensorflow as tf
from keras import ops

FEATURES = 4


def ones():
    x = np.ones((2000, FEATURES), "float32")
    return tf.data.Dataset.from_tensor_slices((x, np.zeros((2000, 1), "float32")))


def every_second_batch_large():
    x = np.random.default_rng(0).normal(size=(4000, FEATURES)).astype("float32")
    x[(np.arange(4000) // 20) % 2 == 1] = 1e6  # finite here, infinite in float16
    return tf.data.Dataset.from_tensor_slices((x, np.arange(4000, dtype="int32") % 3))


def nothing_but_nan():
    x = np.full((2000, FEATURES), np.nan, "float32")
    return tf.data.Dataset.from_tensor_slices((x, np.arange(2000, dtype="int32") % 3))


class Root(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.5), name="w")

    def call(self, inputs):
        return inputs[:, :1] * ops.sqrt(self.w)


class LogOfNothing(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(ops.log(ops.mean(inputs) * 0.0))
        return inputs


def functional(shape, *layers):
    inputs = outputs = keras.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def root(shape):
    return functional(shape, Root())


def log_of_nothing(shape):
    return functional(shape, LogOfNothing(), keras.layers.Dense(1))


def linear(shape, initializer):
    return functional(shape, keras.layers.Dense(1, kernel_initializer=initializer))


def classifier(shape, classes, bias=0.0):
    bias = keras.initializers.Constant(bias)
    return functional(
        shape,
        keras.layers.Flatten(),
        keras.layers.Dense(classes, activation="relu", bias_initializer=bias),
        keras.layers.Softmax(),
    )
"""
SHORT = (
    *("trainer.epochs=null", "trainer.steps=400", "telemetry.peak=false", "batch_size=20"),
    *("telemetry.tensorboard=false", "--allow", "broken.py"),
)


@pytest.fixture
def train(mpt, tmp_path):
    """`train(*words, model=, data=)` runs with the functions above: (what was said, the report)."""
    (tmp_path / "broken.py").write_text(CODE)

    def call(*words, model=None, data=None):
        if model is not None:
            words += ("model=python", f"model.function=broken.py:{model}")
        if data is not None:
            words += ("dataset=python", f"dataset.function=broken.py:{data}")
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        done = mpt("train", *SHORT, f"run_dir={folder}", *words)
        assert (folder / "report.json").exists(), done.err
        report = json.loads((folder / "report.json").read_text())
        jsonschema.validate(report, json_schema())
        return done, report

    return call


def check_diverged(done, report, rule, step):
    """The rule and its step, wherever they are looked for. The message."""
    assert done.code == report["exit_code"] == 3, done.err
    assert report["status"] == "diverged"
    message = report["reason"]["message"]
    assert (report["reason"]["rule"], report["reason"]["step"]) == (rule, step), message
    assert report["diagnosis"][-1] == {"message": message, "step": step}
    assert f"diverged at step {step} ({rule}): {message}" in done.out
    assert done.out.splitlines()[-1].startswith("run: ")
    log = Path(done.out.splitlines()[-1].removeprefix("run: ")) / "train.log"
    assert message in log.read_text()
    return message


def test_nan_for_good(train):
    """A weight leaves the domain of a root at step 18; no batch brings it back."""
    optimizer = ("optimizer=sgd", "optimizer.learning_rate=0.03", "optimizer.momentum=0")
    done, report = train(*optimizer, "precision=float32", model="root", data="ones")
    message = check_diverged(done, report, "max_consecutive_skips", 17 + 50)
    assert "step 18: Root 'root' gave NaN going forward" in message
    assert "optimizer.learning_rate" in message


def test_a_scale_at_its_floor(train):
    """Every second batch overflows, so that no fifty in a row are skipped."""
    done, report = train(
        "precision=mixed_float16", model="classifier", data="every_second_batch_large"
    )
    to_the_floor = 15 + 14  # halvings from 2^15 to 2^-14
    message = check_diverged(done, report, "scale_at_floor", 2 * (to_the_floor + 50))
    assert "50 steps since step 60 were skipped" in message
    assert "loss_scale.min_scale=6.10352e-05" in message
    scale = report["loss_scale"]
    assert (scale["final"], scale["max_consecutive_skips"]) == (2.0**-14, 1)


def test_a_loss_that_grows_step_by_step(train):
    """A learning rate just above what is stable: each step multiplies the loss by 1.05."""
    optimizer = ("optimizer=sgd", "optimizer.learning_rate=0.2025", "optimizer.momentum=0")
    weights = ("+model.kwargs={initializer: ones}", "precision=float32")
    done, report = train(*optimizer, *weights, model="linear", data="ones")
    message = check_diverged(done, report, "max_loss_ratio", 200)
    assert "over trainer.stop.max_loss_ratio=1000 times that of the run's first interval" in message
    assert "try a lower optimizer.learning_rate" in message
    assert report["loss_scale"]["skipped_steps"] == 0, "all of it is finite"


def test_a_loss_that_exploded_at_once_and_stays_there(train):
    done, report = train("optimizer.learning_rate=1000", "precision=float32")
    message = check_diverged(done, report, "max_loss_ratio", 100)
    assert "over trainer.stop.max_loss_ratio=1000 times the loss of the run's first step" in message
    assert report["loss_scale"]["skipped_steps"] == 0


@pytest.mark.parametrize("accumulated", [1, 8])
def test_gradients_that_are_all_zero_from_dead_units(train, accumulated):
    dead = ("+model.kwargs={bias: -1000}", "precision=float32")
    steps = f"optimizer.gradient_accumulation_steps={accumulated}"
    done, report = train(*dead, steps, model="classifier")
    message = check_diverged(done, report, "zero_gradients", 50)
    assert "since step 1, were exactly 0 at a loss of 2.303" in message
    assert "dead units" in message


UNDERFLOW = ("precision=mixed_float16", "precision.head=policy", "loss_weights=1e-10")


def test_gradients_that_are_all_zero_from_underflow_and_its_remedy(train):
    done, report = train(*UNDERFLOW, "loss_scale=none", model="classifier")
    message = check_diverged(done, report, "zero_gradients", 50)
    assert "loss_scale.mode=dynamic" in message
    scale = ("loss_scale.mode=dynamic", "loss_scale.initial_scale=16777216", "trainer.steps=60")
    done, report = train(*UNDERFLOW, *scale, model="classifier")
    assert (done.code, report["status"]) == (0, "completed")


def test_a_loss_that_is_infinite_though_its_gradients_are_not(train):
    done, report = train("precision=float32", model="log_of_nothing", data="ones")
    message = check_diverged(done, report, "nonfinite_loss", 50)
    assert "since step 1," in message
    assert report["loss_scale"]["skipped_steps"] == 0


def test_a_perfect_fit_is_completed(train):
    """All gradients are zero here, too, because the loss is."""
    words = ("+model.kwargs={initializer: zeros}", "precision=float32", "trainer.steps=120")
    done, report = train(*words, model="linear", data="ones")
    assert (done.code, report["status"]) == (0, "completed")
    assert report["metrics"]["final"]["train/loss"] == 0


def test_accumulated_gradients_are_looked_at_batch_by_batch(train):
    """Seven of eight steps change no weight, and yet none has zero gradients."""
    strict = ("trainer.stop.zero_gradient_steps=1", "trainer.steps=40")
    done, _ = train(*strict, "optimizer.gradient_accumulation_steps=8", model="classifier")
    assert done.code == 0, done.out


def test_a_run_without_one_applied_step(mpt, train):
    """Too few steps for the rules that count: it has trained nothing, and does not say completed.

    So say a smoke run's own checks, a resumed run, a comparison and the page, too.
    """
    words = (
        "precision=float32",
        "trainer.steps=20",
        "trainer.eval_every=10",
        "trainer.log_every=5",
    )
    more = ("trainer.smoke_checks=true", "trainer.checkpoint_every=7")
    done, report = train(*words, *more, model="classifier", data="nothing_but_nan")
    message = check_diverged(done, report, "all_skipped", 20)
    assert message.startswith("all 20 steps were skipped for non-finite gradients")
    assert "step 1: " in message, "the diagnosis is named"
    assert not [tag for tag in report["metrics"]["final"] if tag.startswith("train/")]
    assert report["loss_scale"]["skipped_steps"] == 20
    assert "last_good_checkpoint" not in report["artifacts"]
    assert ("loss_finite", False) in [(c["name"], c["passed"]) for c in report["smoke_checks"]]
    run = Path(done.out.splitlines()[-1].removeprefix("run: "))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any("train/accuracy" in row for row in rows), "no value of no batch"

    for name in ("report.json", "model.keras"):  # as after a kill: it goes on from step 14
        (run / name).unlink()
    assert mpt("train", f"resume={run}", "--allow", "broken.py").code == 3
    again = json.loads((run / "report.json").read_text())
    assert again["training"]["resumed_from_step"] == 14
    assert again["reason"] == report["reason"]
    assert again["metrics"] == report["metrics"]

    sound, _ = train(*words, model="classifier")
    other = sound.out.splitlines()[-1].removeprefix("run: ")
    compared = mpt("compare", str(run), other)
    assert "diverged: all_skipped at step 20" in compared.out
    page = run.parent / "run.html"
    assert mpt("show", str(run), "--html", str(page)).code == 0
    assert "all_skipped" in page.read_text()


def test_one_that_stopped_early_has_diverged_too(train):
    words = ("precision=float32", "trainer.steps=40", "trainer.eval_every=5")
    patience = "trainer.early_stopping.patience=1"
    done, report = train(*words, patience, model="classifier", data="nothing_but_nan")
    check_diverged(done, report, "all_skipped", report["training"]["steps"])
    assert report["training"]["steps"] < 40
