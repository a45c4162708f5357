"""U-Net: parameters as published, and the outputs of plain NumPy in float64."""

import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from mpt import precision
from mpt.errors import ConfigurationError
from mpt.models import unet


def counted(channels, classes, width=64, depth=4):
    """Trainable parameters by the paper's figure 1, with BatchNormalization and no bias before."""

    def pair(inputs, filters):
        return 9 * inputs * filters + 9 * filters * filters + 2 * 2 * filters

    widths = [width * 2**level for level in range(depth + 1)]
    down = sum(
        pair(a, b) for a, b in zip([channels, *widths[:-1]], widths, strict=True)
    )  # the bottom is the last
    up = sum(4 * 2 * w * w + w + pair(2 * w, w) for w in widths[:-1])
    return down + up + width * classes + classes


@pytest.mark.parametrize(
    ("channels", "classes", "published"),
    [
        # What torchinfo and torchsummary print of github.com/milesial/Pytorch-UNet, the best known
        # implementation, with transposed convolutions (bilinear=False): three channels.
        (3, 2, 31_037_698),
        # One channel and two classes, as in the paper.
        (1, 2, 31_036_546),
    ],
)
def test_it_has_the_published_parameters(channels, classes, published):
    model = unet.build(shape=(64, 64, channels), classes=classes)
    trained = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trained == published == counted(channels, classes)
    assert model.count_params() - trained == 11_776
    assert model.output_shape == (None, 64, 64, classes)
    convolutions = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose)
    ]
    assert len(convolutions) == 23, "as the paper says"


class Network:
    """A forward pass in inference, in float64, by the weights' names."""

    def __init__(self, model):
        random = np.random.default_rng(4)
        for variable in model.variables:
            low = 0.5 if "variance" in variable.path else -0.5
            if "kernel" not in variable.path:
                variable.assign(random.uniform(low, 1.0, variable.shape))
        self.weights = {v.path: v.numpy().astype(np.float64) for v in model.variables}

    def pair(self, x, path):
        for number in (1, 2):
            name = f"{path}_{number}"
            padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
            windows = sliding_window_view(padded, (3, 3), axis=(1, 2))
            x = np.einsum("bhwckl,klcf->bhwf", windows, self.weights[f"{name}_conv/kernel"])
            gamma, beta, mean, variance = (
                self.weights[f"{name}_norm/{part}"]
                for part in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            x = np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)
        return x

    def up(self, x, path):
        """Each pixel becomes 2x2 pixels."""
        kernel = self.weights[f"{path}_conv/kernel"]  # (2, 2, filters, inputs)
        rows, height, width, _ = x.shape
        parts = np.einsum("bhwc,klfc->bhkwlf", x, kernel)
        return parts.reshape(rows, 2 * height, 2 * width, -1) + self.weights[f"{path}_conv/bias"]

    def __call__(self, x, depth):
        beside = {}
        for level in range(1, depth + 1):
            beside[level] = x = self.pair(x, f"down{level}")
            rows, height, width, channels = x.shape
            x = x.reshape(rows, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = self.pair(x, "bottom")
        for level in range(depth, 0, -1):
            x = np.concatenate([beside[level], self.up(x, f"up{level}")], axis=-1)
            x = self.pair(x, f"up{level}")
        return (
            np.einsum("bhwc,klcf->bhwf", x, self.weights["head/kernel"])
            + (self.weights["head/bias"])
        )


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.mark.parametrize(("depth", "height", "width"), [(1, 6, 10), (3, 16, 8)])
def test_it_computes_what_numpy_does(depth, height, width):
    model = unet.build(shape=(height, width, 3), classes=5, width=4, depth=depth, dropout=0.5)
    network = Network(model)
    x = images(2, height, width, 3)
    expected = network(x.astype(np.float64), depth)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_gives_float32_logits_near_those_of_float32(policy):
    def build():
        return unet.build(shape=(16, 16, 3), classes=4, width=8, depth=2)

    model = precision.build(build, policy=policy)
    assert {row["compute_dtype"] for row in precision.table(model) if "conv" in row["path"]} == {
        policy.removeprefix("mixed_")
    }
    head = model.get_layer("head")
    assert (head.compute_dtype, model.output.dtype) == ("float32", "float32")
    keras.config.set_dtype_policy("float32")
    exact = build()
    exact.set_weights(model.get_weights())
    x = 30 * images(4, 16, 16, 3)  # far from unit size: nothing overflows behind a normalization
    found, expected = np.asarray(model(x, training=True)), np.asarray(exact(x, training=True))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    allowed = 0.02 if policy == "mixed_float16" else 0.1
    assert np.abs(found - expected).max() < allowed * np.abs(expected).max()


def test_a_saved_one_loads_without_code_of_ours(tmp_path):
    model = unet.build(shape=(8, 8, 1), classes=3, width=2, depth=2, dropout=0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = images(2, 8, 8, 1)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_regression_of_each_pixel():
    model = unet.build(shape=(8, 8, 1), classes=None, outputs=2, width=2, depth=1)
    assert model.output_shape == (None, 8, 8, 2)
    assert model.get_layer("head").activation is keras.activations.linear


@pytest.mark.parametrize(
    ("arguments", "where", "says"),
    [
        ({"shape": (24, 40, 3)}, "model.depth", "16 does not divide both sides"),
        ({"shape": (24, 40, 3)}, "model.depth", "to 32x32, or a smaller depth"),
        ({"shape": (2, 2, 3)}, "model.depth", "to 16x16"),
        ({"shape": (16, 16)}, "model", "(height, width, channels)"),
        ({"width": 0}, "model.width", "below 1"),
        ({"depth": 0}, "model.depth", "below 1"),
        ({"dropout": 1.0}, "model.dropout", "share"),
        ({"classes": 1}, "dataset.classes", "two classes"),
        ({"classes": None, "outputs": 0}, "model.outputs", "below 1"),
    ],
)
def test_refused(arguments, where, says):
    with pytest.raises(ConfigurationError) as caught:
        unet.build(**{"shape": (16, 16, 3), "classes": 3, **arguments})
    assert caught.value.where == where
    assert says in str(caught.value)
