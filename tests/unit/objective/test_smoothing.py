"""Label smoothing, held against Keras's on one-hot labels and against PyTorch's."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import objective
from mpt.errors import ConfigurationError

SHARE = 0.1
RANDOM = np.random.default_rng(0)
LOGITS = (3 * RANDOM.standard_normal((6, 5))).astype(np.float32)
LABELS = RANDOM.integers(0, 5, 6).astype(np.int32)
TEXT_LOGITS = RANDOM.standard_normal((4, 7, 9)).astype(np.float32)
TEXT_LABELS = RANDOM.integers(0, 9, (4, 7)).astype(np.int32)


@dataclass
class Given:
    """Data as far as the objective looks at it."""

    element_spec: Any
    classes: int | None
    name: str = "given"
    ignores: bool = False


def given(x, y, classes):
    spec = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in (x, y)]
    return Given(tuple(spec), classes if y.dtype == np.int32 else None)


def passing_on(shape, activation, dtype=None):
    """A model that gives its input, or its softmax."""
    inputs = keras.Input(shape)
    layer = keras.layers.Activation(activation or "linear", dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def compiled(x, y, classes, activation=None, dtype=None, **changes):
    model = passing_on(x.shape[1:], activation, dtype)
    arguments = {"loss": "auto", "metrics": "auto", "label_smoothing": SHARE, **changes}
    objective.compile_model(
        model, keras.optimizers.SGD(0.1), data=given(x, y, classes), **arguments
    )
    return model


def kerass(x, y, classes, activation=None, weights=None):
    """Keras's loss on one-hot labels."""
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=activation is None, label_smoothing=SHARE
    )
    prediction = x if activation is None else tf.nn.softmax(x)
    return float(loss(np.eye(classes, dtype=np.float32)[y], prediction, weights))


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize(
    ("x", "y", "classes"), [(LOGITS, LABELS, 5), (TEXT_LOGITS, TEXT_LABELS, 9)]
)
def test_it_is_kerass_on_one_hot_labels(x, y, classes, activation):
    model = compiled(x, y, classes, activation)
    found = model.test_on_batch(x, y, return_dict=True)
    assert found["loss"] == pytest.approx(kerass(x, y, classes, activation), rel=2e-6)
    assert found["accuracy"] == pytest.approx(np.mean(x.argmax(-1) == y))
    smoothless = compiled(x, y, classes, activation, label_smoothing=0.0)
    assert smoothless.test_on_batch(x, y, return_dict=True)["loss"] != pytest.approx(
        found["loss"], rel=1e-3
    )


def test_its_gradient_is_kerass():
    ours = compiled(LOGITS, LABELS, 5).loss
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SHARE)
    x = tf.Variable(LOGITS)
    with tf.GradientTape(persistent=True) as tape:
        one, other = ours(LABELS, x), theirs(tf.one_hot(LABELS, 5), x)
    np.testing.assert_allclose(tape.gradient(one, x), tape.gradient(other, x), atol=2e-7)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_a_softmax_in_half_precision_has_its_loss_from_the_logits(policy):
    x = np.array([[30.0, -25.0, 0.0], [9.0, 9.5, -30.0]], np.float32)
    y = np.array([1, 2], np.int32)
    model = compiled(x, y, 3, "softmax", policy)
    exact = kerass(x.astype(np.float64), y, 3)
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(exact, rel=1e-5)


def test_it_is_pytorchs():
    if "MPT_TORCH_PYTHON" not in os.environ:
        pytest.importorskip("torch", reason="PyTorch is absent, and MPT_TORCH_PYTHON is not set")
    script = (
        "import json, sys, torch; x, y, w, s = json.load(sys.stdin);"
        "loss = torch.nn.functional.cross_entropy;"
        "x, y = torch.tensor(x), torch.tensor(y);"
        "print(json.dumps([float(loss(x, y, label_smoothing=s)),"
        " float((loss(x, y, label_smoothing=s, reduction='none') * torch.tensor(w)).mean())]))"
    )
    weights = np.linspace(0.5, 2.0, 6).astype(np.float32)
    done = subprocess.run(
        [os.environ.get("MPT_TORCH_PYTHON", sys.executable), "-c", script],
        input=json.dumps([LOGITS.tolist(), LABELS.tolist(), weights.tolist(), SHARE]),
        capture_output=True,
        text=True,
        check=True,
    )
    plain, weighted = json.loads(done.stdout)
    loss = compiled(LOGITS, LABELS, 5).loss
    assert float(loss(LABELS, LOGITS)) == pytest.approx(plain, rel=2e-6)
    assert float(loss(LABELS, LOGITS, weights)) == pytest.approx(weighted, rel=2e-6)


def test_with_weights_of_every_place_of_a_text():
    weights = np.random.default_rng(1).random(TEXT_LABELS.shape).astype(np.float32)
    loss = compiled(TEXT_LOGITS, TEXT_LABELS, 9).loss
    expected = kerass(TEXT_LOGITS, TEXT_LABELS, 9, weights=weights)
    assert float(loss(TEXT_LABELS, TEXT_LOGITS, weights)) == pytest.approx(expected, rel=2e-6)


def test_places_to_be_ignored_are_ignored():
    labels = TEXT_LABELS.copy()
    labels[:, 3:] = -1
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    found = compiled(TEXT_LOGITS, TEXT_LABELS, 9, loss=own).loss(labels, TEXT_LOGITS)
    expected = kerass(TEXT_LOGITS[:, :3], TEXT_LABELS[:, :3], 9)
    assert float(found) == pytest.approx(expected, rel=2e-6)


def test_mixtures_of_labels():
    soft = (0.3 * np.eye(5)[LABELS] + 0.7 * np.eye(5)[LABELS[::-1]]).astype(np.float32)
    model = compiled(LOGITS, soft, 5, "softmax")
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=SHARE)
    found = model.test_on_batch(LOGITS, soft, return_dict=True)
    assert found["loss"] == pytest.approx(float(theirs(soft, tf.nn.softmax(LOGITS))), rel=2e-6)
    assert found["accuracy"] == pytest.approx(np.mean(LOGITS.argmax(-1) == soft.argmax(-1)))


def test_two_classes_at_one_unit():
    x, y = LOGITS[:, :1], (LABELS > 2).astype(np.int32)
    found = compiled(x, y, 2).test_on_batch(x, y, return_dict=True)["loss"]
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=SHARE)
    assert found == pytest.approx(float(theirs(y[:, None], x)), rel=2e-6)


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(True)]
)
def test_a_loss_that_is_given_is_smoothed_and_left_as_it_was(loss):
    found = compiled(LOGITS, LABELS, 5, loss=loss).loss(LABELS, LOGITS)
    assert float(found) == pytest.approx(kerass(LOGITS, LABELS, 5), rel=2e-6)
    if not isinstance(loss, str):
        plain = keras.losses.SparseCategoricalCrossentropy(True)
        assert float(loss(LABELS, LOGITS)) == float(plain(LABELS, LOGITS))


def test_what_is_no_class_beside_one_stays_as_it_is():
    inputs = keras.Input((5,))
    outputs = [keras.layers.Activation("softmax", name="a")(inputs), inputs[:, :1]]
    model = keras.Model(inputs, outputs)
    spec = tf.nest.map_structure(
        lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype),
        (LOGITS, (LABELS, LOGITS[:, :1])),
    )
    objective.compile_model(
        model,
        keras.optimizers.SGD(0.1),
        loss=["sparse_categorical_crossentropy", "mean_squared_error"],
        metrics=[],
        data=Given(spec, None),
        label_smoothing=SHARE,
    )
    found = model.test_on_batch(LOGITS, (LABELS, LOGITS[:, 1:2]), return_dict=True)["loss"]
    squares = np.mean((LOGITS[:, 0] - LOGITS[:, 1]) ** 2)
    assert found == pytest.approx(kerass(LOGITS, LABELS, 5, "softmax") + squares, rel=2e-6)


def test_the_saved_file_names_kerass_loss(tmp_path):
    model = compiled(LOGITS, LABELS, 5, "softmax")
    model.test_on_batch(LOGITS, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded.loss) is keras.losses.SparseCategoricalCrossentropy
    assert "mpt" not in str(loaded.get_compile_config())


@pytest.mark.parametrize(
    "loss",
    [
        "mean_squared_error",
        keras.losses.CategoricalCrossentropy(label_smoothing=0.2),
        "crossentropy",
        lambda y, p: keras.ops.mean(p, axis=-1),
    ],
)
def test_what_cannot_be_smoothed_is_refused(loss):
    with pytest.raises(ConfigurationError) as error:
        compiled(LOGITS, LABELS, 5, loss=loss)
    assert error.value.where == "label_smoothing"


def test_a_model_that_its_builder_compiled_is_refused():
    model = passing_on((5,), "softmax")
    model.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ConfigurationError, match="compiled by its builder"):
        objective.compile_model(
            model,
            keras.optimizers.SGD(0.1),
            loss="auto",
            metrics="auto",
            data=given(LOGITS, LABELS, 5),
            label_smoothing=SHARE,
        )
