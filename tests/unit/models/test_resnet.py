"""Residual networks against plain NumPy in float64."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from mpt.models import resnet

STAGES = {50: ((64, 3), (128, 4), (256, 6), (512, 3)), 14: ((16, 2), (32, 2), (64, 2))}


def windows(x, kernel, stride, fill=0.0):
    """(batch, height, width, channels, kernel, kernel), with TensorFlow's "same" padding."""
    pads = []
    for size in x.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    return sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


class Network:
    """A forward pass in inference by the weights' names."""

    def __init__(self, model):
        random = np.random.default_rng(4)
        for variable in model.variables:
            low = 0.5 if "variance" in variable.path else -0.5
            if "kernel" not in variable.path:
                variable.assign(random.uniform(low, 1.0, variable.shape))
        self.weights = {v.path: v.numpy().astype(np.float64) for v in model.variables}

    def convolution(self, x, name, stride=1, relu=True):
        kernel = self.weights[f"{name}_conv/kernel"]
        x = np.einsum("bhwckl,klcf->bhwf", windows(x, kernel.shape[0], stride), kernel)
        gamma, beta, mean, variance = (
            self.weights[f"{name}_norm/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.maximum(x, 0) if relu else x

    def head(self, x):
        x = x.mean((1, 2)) @ self.weights["head/kernel"] + self.weights["head/bias"]
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True)

    def bottlenecks(self, x):
        x = windows(self.convolution(x, "stem", 2), 3, 2, fill=-np.inf).max((-1, -2))
        for stage, (_, blocks) in enumerate(STAGES[50], start=1):
            for block in range(1, blocks + 1):
                path, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
                y = self.convolution(x, f"{path}_1")
                y = self.convolution(y, f"{path}_2", stride)  # v1.5: not in the first
                y = self.convolution(y, f"{path}_3", relu=False)
                if block == 1:
                    x = self.convolution(x, f"{path}_shortcut", stride, relu=False)
                x = np.maximum(x + y, 0)
        return self.head(x)

    def pairs(self, x, shortcut):
        x = self.convolution(x, "stem")
        for stage, (width, blocks) in enumerate(STAGES[14], start=1):
            for block in range(1, blocks + 1):
                path, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
                y = self.convolution(x, f"{path}_1", stride)
                y = self.convolution(y, f"{path}_2", relu=False)
                if stride == 2 and shortcut == "B":
                    x = self.convolution(x, f"{path}_shortcut", stride, relu=False)
                elif stride == 2:
                    side = (width - x.shape[-1]) // 2
                    x = np.pad(x[:, ::2, ::2], [(0, 0)] * 3 + [(side, side)])
                x = np.maximum(x + y, 0)
        return self.head(x)


def test_resnet50_computes_what_numpy_does():
    model = resnet.build(shape=(32, 32, 3), classes=7, depth=50)
    network = Network(model)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = network.bottlenecks(images.astype(np.float64))
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_cifar_family_computes_what_numpy_does(shortcut):
    model = resnet.build(shape=(16, 16, 3), classes=7, depth=14, shortcut=shortcut)
    network = Network(model)
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    expected = network.pairs(images.astype(np.float64), shortcut)
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "given", "zeros"), [(50, None, 16), (50, False, 0), (14, True, 6)]
)
def test_blocks_may_start_as_the_identity(depth, given, zeros):
    model = resnet.build(shape=(32, 32, 3), classes=7, depth=depth, zero_gamma=given)
    last = "_3_norm" if depth == 50 else "_2_norm"
    gammas = [v for v in model.variables if v.path.endswith("gamma")]
    started = {v.path.split("/")[0] for v in gammas if not v.numpy().any()}
    assert len(started) == zeros
    assert all(name.endswith(last) for name in started)
