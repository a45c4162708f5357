"""A class for each pixel, from training to what is done with the trained model."""

import json
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.cli import main

TINY = (
    *("model=unet", "model.width=4", "model.depth=1", "dataset=mask_folder", "dataset.path=scenes"),
    *("dataset.size=16", "dataset.validation_fraction=0.25", "batch_size=4", "device=cpu", "-q"),
    *("trainer.steps=6", "trainer.epochs=null", "trainer.log_every=2", "trainer.warmup_steps=0"),
    *("telemetry.peak=false", "telemetry.histogram_every=0", "telemetry.tensorboard=false"),
)


def lay_out(folder):
    """Sixteen images whose red tells the class; a border of 255 in each mask."""
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(16):
        ids = np.kron(random.integers(0, 3, (6, 6)), np.ones((4, 4), int))
        image = np.stack([80 * ids, 0 * ids, 0 * ids], -1)
        ids[:2] = 255
        for part, pixels in (("images", image), ("masks", ids[..., None])):
            content = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
            (folder / part / f"{number:02}.png").write_bytes(content)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    lay_out(folder)
    return folder


@pytest.fixture(scope="module")
def trained(scenes):
    run = scenes / "run"
    words = ("precision=mixed_bfloat16", f"dataset.path={scenes}", f"run_dir={run}")
    assert main(["train", *TINY, *words]) == 0
    return run


def test_what_training_tells(trained):
    report = json.loads((trained / "report.json").read_text())
    assert (report["data"]["train_examples"], report["data"]["validation_examples"]) == (12, 4)
    names = {f"{part}/{name}" for part in ("train", "validation") for name in NAMES}
    assert names <= set(report["metrics"]["final"])
    table = {row["path"]: row["compute_dtype"] for row in report["precision"]["table"]}
    assert (table["head"], table["down1_1_conv"]) == ("float32", "bfloat16")


NAMES = ("loss", "accuracy", "mean_iou")


def test_an_evaluation_counts_no_ignored_pixel(mpt, trained, scenes):
    """Against the saved model under plain Keras, and metrics by hand."""
    from mpt.data import mask_folder

    done = mpt("evaluate", str(trained), "precision=float32", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["metrics"]
    settings = {"size": 16, "validation_fraction": 0.25, "batch_size": 4, "seed": 0}
    ((x, y, weight),) = mask_folder.build(path=str(scenes), **settings).validation.take(1)
    logits = np.asarray(in_float32(trained)(x, training=False), np.float64)
    counted, y = weight.numpy() > 0, y.numpy()
    assert 0.02 < 1 - counted.mean() < 0.3
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(logs, y[..., None], -1)[..., 0][counted].mean()
    right = logits.argmax(-1) == y
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["accuracy"] == pytest.approx(right[counted].mean(), abs=2e-3)
    overlaps = []
    for kind in range(3):
        one, other = (part[counted] == kind for part in (y, logits.argmax(-1)))
        overlaps.append((one & other).sum() / (one | other).sum())
    assert found["mean_iou"] == pytest.approx(np.mean(overlaps), abs=2e-3)


def in_float32(run):
    """The model that a run has saved, with all layers in float32."""
    model = keras.models.load_model(run / "model.keras", compile=False)

    def same(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    exact = keras.models.clone_model(model, clone_function=same)
    exact.set_weights(model.get_weights())
    return exact


@pytest.mark.slow
def test_a_tflite_file_of_a_mixed_run_computes_in_float32(mpt, trained):
    done = mpt("export", str(trained), "--format", "tflite", "--to", "unet.tflite")
    assert (done.code, done.err) == (0, "")
    interpreter = lite("unet.tflite")
    kinds = {tensor["name"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float16 in kinds.values(), "its weights"
    assert interpreter.get_input_details()[0]["dtype"] is np.float32
    x = np.random.default_rng(2).random((3, 16, 16, 3), np.float32)
    (given,) = interpreter.get_signature_runner("serving_default")(image=x).values()
    expected = np.asarray(in_float32(trained)(x, training=False))
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() <= 5e-3 * np.abs(expected).max()


def lite(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_path=file)


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(mpt, scenes):
    words = ("train", *TINY, f"dataset.path={scenes}", "precision=float32")
    assert mpt(*words, "run_dir=whole").code == 0
    assert mpt(*words, "run_dir=part", "trainer.steps=4", "trainer.checkpoint_every=4").code == 0
    assert mpt("train", "-q", "resume=part", "trainer.steps=6").code == 0
    one, other = (
        keras.models.load_model(f"{name}/model.keras", compile=False).get_weights()
        for name in ("whole", "part")
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("label_smoothing=0.1", "class_weight=balanced", "precision=mixed_float16"),
        ("class_weight=[1,2,3]", "optimizer.gradient_accumulation_steps=2"),
        ("trainer.jit_compile=true", "precision=mixed_bfloat16"),
    ],
)
def test_features_of_training_take_a_label_for_each_pixel(mpt, scenes, words):
    done = mpt("train", *TINY, f"dataset.path={scenes}", *words, "run_dir=run")
    assert done.code == 0, done.err
    final = json.loads(Path("run/report.json").read_text())["metrics"]["final"]
    assert all(np.isfinite(final[f"validation/{name}"]) for name in NAMES)


def test_weights_of_classes_are_those_of_counted_pixels(scenes):
    from mpt.data import class_weights, mask_folder

    settings = {"size": 24, "crop_area": None, "flip": False, "shuffle": False}
    data = mask_folder.build(
        path=str(scenes), batch_size=16, seed=0, validation_fraction=0, **settings
    )
    ((_, y, counted),) = data.train.take(1)
    ((_, _, weight),) = class_weights.weighted(data, "balanced").train.take(1)
    y, counted = y.numpy(), counted.numpy()
    counts = np.bincount(y[counted > 0], minlength=3)
    np.testing.assert_array_equal(data.class_counts(), counts)
    expected = (counts.sum() / (3 * counts))[y] * counted
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["probe", "inspect"])
def test_what_looks_at_a_model_takes_a_label_for_each_pixel(mpt, scenes, command):
    words = [word for word in TINY if not word.startswith(("trainer.", "-q"))]
    done = mpt(command, *words, f"dataset.path={scenes}", "precision=mixed_float16")
    assert done.code == 0, done.err
    assert "head" in done.out
