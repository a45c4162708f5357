"""PyTorch's models in the bench are mpt's: the same loss and gradients, in float64."""

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
MODELS = {
    "cnn": ("cnn", {"channels_last": False}, (8, 10, 2), 5),
    "cnn, channels last": ("cnn", {"channels_last": True}, (8, 10, 2), 5),
    "mlp": ("mlp", {"hidden": [16, 12]}, (9,), 5),
    "resnet8": ("resnet", {"depth": 8}, (16, 16, 3), 5),
    "resnet50": ("resnet", {"depth": 50}, (32, 64, 3), 5),
    "gpt": ("gpt", {"depth": 2, "heads": 2, "width": 16}, (12,), 64),
    "vit": ("vit", {"depth": 2, "heads": 2, "width": 16, "patch": 4}, (8, 12, 3), 5),
}
# Keras's gradients go through the mapping that its weights went through.
SCRIPT = """
import json, sys
import numpy as np, torch, torch.nn.functional as F
from bench.torch_models import FAMILIES, inputs, load
family, arguments, shape, classes, folder = json.loads(sys.argv[1])
def read(name):
    with np.load(f"{folder}/{name}.npz") as arrays:
        return dict(arrays)
def model(name):
    made = FAMILIES[family](shape=shape, classes=classes, **arguments).double()
    load(made, read(name))
    return made
ours, theirs = model("weights"), model("gradients")
data = read("data")
x, y = torch.from_numpy(inputs(ours, data["x"])), torch.from_numpy(data["y"]).long()
if x.is_floating_point():
    x = x.double()
if arguments.get("channels_last"):
    ours, x = (each.to(memory_format=torch.channels_last) for each in (ours, x))
loss = F.cross_entropy(ours(x).flatten(0, -2), y.flatten())
loss.backward()
apart = {n: float((p.grad - q).abs().max() / q.abs().max().clamp(min=1e-6))
         for (n, p), q in zip(ours.named_parameters(), theirs.parameters())}
for (n, p), q in zip(ours.named_buffers(), theirs.buffers()):
    if n.endswith("running_mean"):  # the variance has Bessel's correction here
        apart[n] = float((p - q).abs().max() / q.abs().max())
print(json.dumps({"loss": loss.item(), "apart": apart}))
"""


def torch_python() -> str:
    if "MPT_TORCH_PYTHON" not in os.environ:
        pytest.importorskip("torch", reason="PyTorch is absent, and MPT_TORCH_PYTHON is not set")
    return os.environ.get("MPT_TORCH_PYTHON", sys.executable)


@pytest.fixture
def exact_gelu(monkeypatch):
    """TensorFlow's GELU by erf has a square root of 2 that is 5e-9 off, in float64 too."""
    import tensorflow as tf

    plain = tf.nn.gelu

    def gelu(features, approximate=False):
        if approximate:
            return plain(features, approximate=True)
        return 0.5 * features * (1 + tf.math.erf(features / math.sqrt(2)))

    monkeypatch.setattr(tf.nn, "gelu", gelu)


def keras_side(family, arguments, shape, classes, folder):
    """Write data, weights and gradients, and give the loss."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    tokens = family == "gpt"
    size = (6, *shape)
    # Keras casts a model's inputs to float32.
    x = rng.integers(0, classes, size) if tokens else rng.normal(size=size).astype("float32")
    y = rng.integers(0, classes, size if tokens else 6)
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float64")
    try:
        build = import_module(f"mpt.models.{family}").build
        model = build(shape=shape, classes=classes, **arguments)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    for weight in model.weights:  # no norm of 0 and no bias that hides what comes before it
        scale = 0.0 if "moving" in weight.path else 0.1
        weight.assign(weight.numpy() + rng.normal(size=weight.shape) * scale)

    def named(values):
        pairs = zip(model.weights, values, strict=True)
        return {"/".join(weight.path.split("/")[-2:]): value for weight, value in pairs}

    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "weights.npz", **named([weight.numpy() for weight in model.weights]))
    with tf.GradientTape() as tape:
        out = model(tf.constant(x, tf.int32 if tokens else tf.float64), training=True)
        each = keras.losses.sparse_categorical_crossentropy(y, out, from_logits=tokens)
        loss = tf.reduce_mean(each)
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    by_path = {
        weight.path: tf.convert_to_tensor(gradient).numpy()
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True)
    }
    values = [by_path.get(weight.path, weight.numpy()) for weight in model.weights]
    np.savez(folder / "gradients.npz", **named(values))
    return float(loss)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("exact_gelu")
def test_a_first_step_is_the_same_in_pytorch(name, tmp_path):
    family, arguments, shape, classes = MODELS[name]
    python = torch_python()
    own = {key: value for key, value in arguments.items() if key != "channels_last"}
    loss = keras_side(family, own, shape, classes, tmp_path)
    told = json.dumps([family, arguments, shape, classes, str(tmp_path)])
    done = subprocess.run(
        [python, "-c", SCRIPT, told], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["loss"] == pytest.approx(loss, rel=1e-9)
    assert found["apart"]
    assert max(found["apart"].values()) < 1e-6, found["apart"]
