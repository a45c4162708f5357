"""`mpt probe` from the command line to its folder."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mpt.cli import main
from mpt.probing import measuring

TINY = ("dataset.examples=100", "batch_size=16", "model=mlp", "model.hidden=[16]")
MIXED = "precision=mixed_bfloat16"
MODELS = '''
import keras
import numpy as np
import tensorflow as tf


class Boom(keras.layers.Layer):
    """Beyond float16's 65504; with a power of 200, beyond float32's 3e38 too."""

    def __init__(self, power, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def call(self, x):
        return keras.ops.exp(keras.ops.abs(x) + self.power) * 1e-9


class Block(keras.layers.Layer):
    def __init__(self, power, **kwargs):
        super().__init__(**kwargs)
        self.up = keras.layers.Dense(8, name="up")
        self.boom = Boom(power, name="boom")
        self.down = keras.layers.Dense(8, name="down")

    def call(self, x):
        return x + self.down(self.boom(self.up(x)))


class Net(keras.Model):
    def __init__(self, classes, power):
        super().__init__(name="net")
        self.first = keras.layers.Dense(8, name="first")
        self.block = Block(power, name="block")
        self.head = keras.layers.Dense(classes, name="head")

    def call(self, x):
        return self.head(self.block(self.first(keras.ops.reshape(x, (-1, 64)))))


def subclassed(classes, power=20.0):
    return Net(classes, power)


class Whole(keras.Model):
    """No layer at all: only a weight, and what `call` does with it."""

    def __init__(self, classes):
        super().__init__(name="whole")
        self.kernel = self.add_weight(shape=(64, classes), name="kernel")

    def call(self, x):
        return keras.ops.cast(keras.ops.reshape(x, (-1, 64)) @ self.kernel, "float32")


def whole(classes):
    return Whole(classes)


def head_alone(shape, classes):
    return keras.Sequential([keras.Input(shape), keras.layers.Dense(classes)])


def quantized(shape, classes):
    layer = keras.layers.Dense(16, name="quantized")
    inputs = keras.Input(shape)
    x = layer(keras.layers.Flatten()(inputs))
    layer.quantize("float8")
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def with_nan(batch_size):
    x = np.zeros((32, 8, 8, 1), "float32")
    x[[3, 17], 0, 0, 0] = np.nan
    return tf.data.Dataset.from_tensor_slices((x, np.arange(32) % 10)).batch(batch_size)
'''


@pytest.fixture
def models(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    return ("--allow", "models.py", "model=python", "dataset.examples=100", "batch_size=16")


@pytest.fixture
def few_scales(monkeypatch):
    """Only these powers of two are looked at: a third of the time."""
    monkeypatch.setattr(measuring, "SCALES", (1.0, 2.0**15, 2.0**24))


def probe_of(out):
    folder = Path(out.splitlines()[-1].removeprefix("probe: "))
    return folder, json.loads((folder / "probe.json").read_text())


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """One probe in mixed_float16: what it printed, its folder and its file."""
    folder = tmp_path_factory.mktemp("probed")
    words = ["precision=mixed_float16", "--plot", "png", "--batches", "2"]
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        assert main(["probe", *TINY, *words]) == 0
    return out.getvalue(), folder, *probe_of(out.getvalue())


def test_a_probe_leaves_its_table_its_file_and_its_picture(probed):
    out, where, folder, probe = probed
    assert folder.relative_to(where).parts[0] == "probes"
    assert (folder / "probe.png").read_bytes().startswith(b"\x89PNG")
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert config.precision.policy == "mixed_float16"
    found = probe["policy"], probe["reference"], probe["batches"], probe["scale"]
    assert found == ("mixed_float16", "float32", 2, 32768)
    rows = {row["path"]: row for row in probe["layers"]}
    assert list(rows) == ["flatten", "dense_1", "head"]
    assert [rows[path]["compute_dtype"] for path in rows] == ["float16", "float16", "float32"]
    # One rounding to float16 is 2^-11; a dense layer makes a few.
    assert 2.0**-14 < rows["dense_1"]["forward_relative_error"] < 2.0**-8
    assert rows["dense_1"]["backward_finite"]
    lines = out.splitlines()
    assert any(line.startswith("dense_1  float16") for line in lines)
    assert probe["recommendation"]["message"] in lines
    assert "\x1b" not in out


def test_all_gradients_of_all_batches_are_counted(probed):
    # Two batches of 16 with 16 units; 64 * 16 + 16 weights, whose gradients come once a batch.
    for histograms in (probed[3]["histograms"]["reference"], *probed[3]["histograms"]["policy"]):
        for kind, count in (("activation_gradients", 2 * 16 * 16), ("weight_gradients", 2 * 1040)):
            found = histograms[kind]
            assert found["zero"] + found["non_finite"] + sum(found["exponents"].values()) == count


def test_larger_scales_shift_gradients_by_whole_bits(probed):
    probe = probed[3]
    rows = {row["scale"]: row for row in probe["scales"]}
    assert list(rows) == [2.0**e for e in range(25)]
    best = probe["recommendation"]["initial_scale"]
    assert rows[best]["finite"]
    assert rows[best]["headroom_bits"] >= 2 > rows[2 * best]["headroom_bits"]
    # Below the top, float16 has the same significant bits at every power of two.
    assert rows[2.0]["largest"] == 2 * rows[1.0]["largest"]
    assert rows[2.0]["headroom_bits"] == pytest.approx(rows[1.0]["headroom_bits"] - 1)
    assert not rows[2.0**24]["finite"]


def test_json_is_one_object_for_a_model_without_layers_at_a_scale_of_its_own(
    mpt, models, few_scales
):
    words = (
        *(*models, "model.function=models.py:whole", "precision=mixed_bfloat16"),
        *("loss_scale=fixed", "loss_scale.initial_scale=1000", "run_dir=here"),
    )
    done = mpt("probe", *words, "--json", "--reference", "float64")
    assert done.code == 0, done.err
    probe = json.loads(done.out)
    assert probe == json.loads(Path("here/probe.json").read_text())
    assert (probe["reference"], probe["scale"]) == ("float64", 1000)
    assert 1000 in [row["scale"] for row in probe["scales"]]
    assert probe["recommendation"]["needed"] is False
    assert probe["recommendation"]["initial_scale"] == 1
    assert [row["path"] for row in probe["layers"]] == ["whole"]
    assert any("whole computes with weights of its own" in note for note in probe["notes"])
    assert Path("here/probe.svg").is_file()
    again = mpt("probe", *words)
    assert again.code == 2
    assert "There is a probe in this folder already" in again.err


def test_gradients_too_small_for_float16_need_a_scale(mpt, few_scales):
    words = (*TINY, "loss=sparse_categorical_crossentropy", "loss_weights=1e-6")
    probe = probe_of(mpt("probe", *words, "precision=mixed_float16", "-q").out)[1]
    rows = {row["scale"]: row for row in probe["scales"]}
    assert rows[1.0]["underflow_share"] > 0.5 > rows[2.0**15]["underflow_share"]
    recommendation = probe["recommendation"]
    assert (recommendation["needed"], recommendation["initial_scale"]) == (True, 2.0**24)
    assert "dense_1 loses" in recommendation["message"]
    assert "mixed_float16 needs loss scaling" in recommendation["message"]


def test_the_layer_that_overflows_is_ranked_first(mpt, models, few_scales):
    words = (*models, "model.function=models.py:subclassed", "precision=mixed_float16")
    done = mpt("probe", *words)
    assert done.code == 0, done.err
    probe = probe_of(done.out)[1]
    assert probe["ranking"][0]["path"] == "block/boom"
    assert probe["ranking"][0]["score"] > 3
    rows = {row["path"]: row for row in probe["layers"]}
    assert rows["block/up"]["forward_finite"]
    assert not rows["block/boom"]["forward_finite"]
    assert rows["block/boom"]["forward_relative_error"] == "Infinity"
    assert probe["recommendation"]["initial_scale"] is None
    assert "{match:'block/boom',policy:float32}" in done.out


def test_bad_input_is_said_and_leaves_no_folder(mpt, models, tmp_path):
    nan = ("--allow", "models.py", "dataset=python", "dataset.function=models.py:with_nan")
    done = mpt("probe", *nan, "batch_size=32", "precision=mixed_float16", "model=mlp")
    assert done.code == 2
    assert "2 of 32 rows of batch 1 hold NaN in x: rows 3, 17." in done.err
    done = mpt("probe", *TINY, "precision=float32")
    assert done.code == 2
    assert "There is nothing to probe" in done.err
    assert "where:   precision.policy" in done.err
    words = ("model.function=models.py:subclassed", "model.kwargs={power:200}")
    done = mpt("probe", *models, *words, "precision=mixed_bfloat16")
    assert done.code == 2
    assert "The reference is not finite either: in float32, the outputs of block/boom" in done.err
    assert not (tmp_path / "probes").exists()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("head_alone", "There is nothing to probe"),
        ("quantized", "'quantized' is quantized (float8)"),
    ],
)
def test_models_that_cannot_be_probed(mpt, models, tmp_path, function, words):
    data = ("dataset=synthetic", "dataset.shape=[8]", "dataset.classes=3")
    done = mpt("probe", *models, *data, f"model.function=models.py:{function}", MIXED)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "probes").exists()
