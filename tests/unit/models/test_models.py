"""The families: layers, parameters as published, outputs, and what they refuse."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from mpt.errors import ConfigurationError
from mpt.models import application, cnn, mlp, resnet


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def test_cnn_is_the_classic_first_example() -> None:
    model = cnn.build(shape=(28, 28, 1), classes=10)
    convolution, flatten, head = model.layers
    assert isinstance(convolution, keras.layers.Conv2D)
    assert (convolution.filters, convolution.kernel_size, convolution.padding) == (
        32,
        (3, 3),
        "valid",
    )
    assert convolution.activation is keras.activations.relu
    assert isinstance(flatten, keras.layers.Flatten)
    assert (head.units, head.activation) == (10, keras.activations.softmax)
    assert model.count_params() == (9 + 1) * 32 + (26 * 26 * 32 + 1) * 10


def test_mlp_flattens_and_stacks() -> None:
    model = mlp.build(shape=(4, 5), classes=3, hidden=[7, 6], activation="gelu", dropout=0.1)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert model.count_params() == 21 * 7 + 8 * 6 + 7 * 3
    assert mlp.build(shape=(4,), classes=3, hidden=[]).count_params() == 15


@pytest.mark.parametrize(
    ("depth", "shortcut", "parameters"),
    [
        (20, "A", 269_722),
        (20, "B", 272_474),
        (32, "A", 464_154),
        (44, "A", 658_586),
        (56, "A", 853_018),
    ],
)
def test_cifar_family_has_the_papers_parameters(depth: int, shortcut: str, parameters: int) -> None:
    model = resnet.build(shape=(32, 32, 3), classes=10, depth=depth, shortcut=shortcut)
    assert trainable(model) == parameters
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == depth - 1 + (2 if shortcut == "B" else 0)


def test_the_deepest_of_the_cifar_family() -> None:
    assert trainable(resnet.build(shape=(32, 32, 3), classes=10, depth=110)) == 1_727_962


def test_resnet50() -> None:
    model = resnet.build(shape=(224, 224, 3), classes=1000, depth=50)
    assert trainable(model) == 25_557_032
    assert model.count_params() == 25_557_032 + 53_120
    assert model.get_layer("pool").input.shape == (None, 7, 7, 2048)


def test_shortcut_a_pads_with_zero_channels() -> None:
    x = keras.Input((4, 4, 16))
    model = keras.Model(x, resnet._padded(x, 32, "here"))
    image = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype(np.float32)
    padded = model.predict(image, verbose=0)
    assert padded.shape == (2, 2, 2, 32)
    np.testing.assert_array_equal(padded[..., 8:24], image[:, ::2, ::2])
    assert not padded[..., :8].any()
    assert not padded[..., 24:].any()


def test_application_by_name_has_keras_parameters() -> None:
    model = application.build(shape=(224, 224, 3), classes=1000, architecture="ResNet50")
    assert model.count_params() == 25_636_712


def test_application_without_its_top() -> None:
    model = application.build(
        shape=(32, 32, 3),
        classes=7,
        architecture="MobileNetV2",
        include_top=False,
        arguments={"alpha": 0.35},
    )
    assert model.get_layer("head").units == 7
    assert model.output_shape == (None, 7)
    assert model.count_params() < 500_000


@pytest.mark.parametrize(
    ("architecture", "include_preprocessing", "rescales"),
    [
        ("MobileNetV3Small", False, False),
        ("MobileNetV3Small", True, True),
        ("EfficientNetB0", False, True),
    ],
)
def test_application_takes_pixels_up_to_one(
    architecture: str, include_preprocessing: bool, rescales: bool
) -> None:
    model = application.build(
        shape=(32, 32, 3),
        classes=7,
        architecture=architecture,
        include_preprocessing=include_preprocessing,
    )
    scales = [layer.scale for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
    assert bool(scales) == rescales
    if not include_preprocessing and rescales:
        assert np.prod(scales[:2]) == pytest.approx(1)


Build = Callable[..., keras.Model]


@pytest.mark.parametrize("build", [cnn.build, mlp.build, resnet.build])
def test_heads(build: Build) -> None:
    classifier = build(shape=(8, 8, 1), classes=3)
    assert classifier.output_shape == (None, 3)
    head = classifier.get_layer("head")
    assert isinstance(head, keras.layers.Dense)
    assert head.activation is keras.activations.softmax
    regression = build(shape=(8, 8, 1), classes=None, outputs=2).get_layer("head")
    assert (regression.units, regression.activation) == (2, keras.activations.linear)


def test_an_applications_regression_is_linear() -> None:
    model = application.build(
        shape=(32, 32, 3), classes=None, outputs=2, architecture="MobileNetV3Small"
    )
    values = model.predict(np.ones((1, 32, 32, 3), np.float32), verbose=0)
    assert values.shape == (1, 2)
    assert abs(values.sum() - 1) > 1e-3


@pytest.mark.parametrize(
    "build",
    [
        lambda: cnn.build(shape=(8, 8, 1), classes=3),
        lambda: mlp.build(shape=(8, 8, 1), classes=3, hidden=[4]),
        lambda: resnet.build(shape=(8, 8, 1), classes=3, depth=8),
    ],
)
def test_saved_models_load_without_code_of_ours(build: Build, tmp_path: Any) -> None:
    model = build()
    x = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("build", [cnn.build, mlp.build, resnet.build])
def test_models_follow_the_global_policy(build: Build) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build(shape=(8, 8, 1), classes=3)
    computing = [layer for layer in model.layers if layer.variables]
    assert {layer.compute_dtype for layer in computing} == {"bfloat16"}


@pytest.mark.parametrize(
    ("build", "arguments", "where", "suggestion"),
    [
        (cnn.build, {"shape": (8, 8)}, "model", None),
        (cnn.build, {"shape": (2, 8, 1)}, "model", None),
        (cnn.build, {"filters": 0}, "model.filters", None),
        (cnn.build, {"kernel_size": 0}, "model.kernel_size", None),
        (cnn.build, {"classes": None, "outputs": 0}, "model.outputs", None),
        (mlp.build, {"hidden": [4, 0]}, "model.hidden[1]", None),
        (mlp.build, {"activation": "rellu"}, "model.activation", "relu"),
        (mlp.build, {"dropout": 1.0}, "model.dropout", None),
        (resnet.build, {"depth": 21}, "model.depth", None),
        (resnet.build, {"depth": 2}, "model.depth", None),
        (resnet.build, {"shortcut": "C"}, "model.shortcut", None),
        (resnet.build, {"depth": 50}, "model", None),
        (application.build, {"architecture": "ResNet5"}, "model.architecture", "ResNet50"),
        (application.build, {"architecture": "resnet50"}, "model.architecture", "ResNet50"),
        (application.build, {"architecture": "InceptionV3"}, "model.architecture", None),
        (application.build, {"arguments": {"alfa": 1}}, "model.arguments.alfa", "alpha"),
        (application.build, {"arguments": {"weights": "imagenet"}}, "model.arguments", None),
    ],
)
def test_refused(build: Build, arguments: dict[str, Any], where: str, suggestion: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(**{"shape": (16, 16, 1), "classes": 3, **arguments})
    assert (caught.value.where or "").startswith(where)
    if suggestion:
        assert caught.value.suggestion == suggestion
