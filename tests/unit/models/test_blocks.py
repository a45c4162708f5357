"""Transformers: the published sizes, and what they compute against plain NumPy in float64."""

import keras
import numpy as np
import pytest
from scipy.special import erf

from mpt import precision
from mpt.errors import ConfigurationError
from mpt.models import blocks, gpt, vit


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"depth": 12, "heads": 3, "width": 192}, 5_717_416),
        ({"depth": 12, "heads": 6, "width": 384}, 22_050_664),
        ({"depth": 12, "heads": 12, "width": 768}, 86_567_656),
    ],
    ids=["Ti/16", "S/16", "B/16"],
)
def test_vit_has_the_published_parameters(sizes, parameters):
    model = vit.build(shape=(224, 224, 3), classes=1000, patch=16, **sizes)
    assert model.count_params() == parameters


@pytest.mark.parametrize(("padding", "parameters"), [(1, 124_439_808), (64, 124_475_904)])
def test_gpt2_small_has_the_published_parameters(padding, parameters):
    sizes = {"depth": 12, "heads": 12, "width": 768, "pad_vocabulary": padding}
    model = gpt.build(shape=(1024,), classes=50_257, **sizes)
    assert model.count_params() == parameters


def filled(model):
    """`model` with all weights drawn, biases and norms too; its weights by path, in float64."""
    random = np.random.default_rng(5)
    for variable in model.variables:
        spread = 0.5 if "embedding" in variable.path else 0.3
        value = random.normal(0.1, spread, variable.shape)
        variable.assign(value + ("gamma" in variable.path))
    weights = {v.path: v.numpy().astype(np.float64) for v in model.variables}
    return lambda name: weights[name] if name in weights else weights[f"{model.name}/{name}"]


def norm(x, weight, path, epsilon):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * weight(f"{path}/gamma") + weight(f"{path}/beta")


def dense(x, weight, path):
    return x @ weight(f"{path}/kernel") + weight(f"{path}/bias")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu_by_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def transformer(x, weight, depth, heads, causal, gelu, epsilon):
    """The blocks and the last norm, a head at a time."""
    length, width = x.shape[1:]
    size = width // heads
    for index in range(1, depth + 1):
        path = f"block{index}"
        y = norm(x, weight, f"{path}_attention_norm", epsilon)
        q, k, v = np.split(dense(y, weight, f"{path}_attention_qkv"), 3, axis=-1)
        mixed = np.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(size)
            if causal:
                scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
            mixed[..., part] = softmax(scores) @ v[..., part]
        x = x + dense(mixed, weight, f"{path}_attention_out")
        y = norm(x, weight, f"{path}_feed_norm", epsilon)
        y = gelu(dense(y, weight, f"{path}_feed_in"))
        x = x + dense(y, weight, f"{path}_feed_out")
    return norm(x, weight, "norm", epsilon)


def test_gpt_computes_what_numpy_does():
    model = gpt.build(shape=(7,), classes=30, depth=2, heads=3, width=12, pad_vocabulary=32)
    weight = filled(model)
    tokens = np.random.default_rng(1).integers(0, 30, (2, 7))
    table = weight("token_embedding/embeddings")
    assert table.shape == (32, 12)
    x = table[tokens] + weight("position_embedding/embeddings")
    expected = transformer(x, weight, 2, 3, True, gelu_by_tanh, 1e-5) @ table.T
    np.testing.assert_allclose(model(tokens), expected, rtol=2e-4, atol=2e-4)


def test_gpt_sees_no_later_token():
    model = gpt.build(shape=(6,), classes=30, depth=2, heads=2, width=8)
    filled(model)
    tokens = np.arange(6)[None]
    changed = tokens.copy()
    changed[0, 4] = 20
    before, after = model(tokens).numpy(), model(changed).numpy()
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-5)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 0.1


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_vit_computes_what_numpy_does(pool):
    model = vit.build(shape=(8, 6, 3), classes=5, patch=2, depth=2, heads=2, width=8, pool=pool)
    weight = filled(model)
    images = np.random.default_rng(1).normal(size=(2, 8, 6, 3)).astype("float32")
    patches = images.reshape(2, 4, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 12, 12)
    kernel = weight("patch_embedding/kernel").reshape(12, 8)
    x = patches @ kernel + weight("patch_embedding/bias")
    if pool == "token":
        token = np.broadcast_to(weight("class_embedding/embeddings"), (2, 1, 8))
        x = np.concatenate([token, x], axis=1)
    x = x + weight("position_embedding/embeddings")
    x = transformer(x, weight, 2, 2, False, gelu, 1e-6)
    x = x[:, 0] if pool == "token" else x.mean(1)
    expected = softmax(dense(x, weight, "head"))
    np.testing.assert_allclose(model(images), expected, rtol=2e-4, atol=1e-5)


def attending(policy, qkv):
    """Output and gradient of the attention of one head of size 64 under `policy`."""
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    x = keras.Input(qkv.shape[1:])
    cast = keras.layers.Identity()(x)
    model = keras.Model(x, blocks.attention(cast, 1, False, "attention"))
    given = tf.constant(qkv)
    with tf.GradientTape() as tape:
        tape.watch(given)
        out = model(given)
    return out.dtype.name, out.numpy(), tape.gradient(out, given).numpy()


@pytest.fixture
def policy_kept():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("policy_kept")
def test_attention_does_not_overflow_float16():
    """Queries and keys of 40: their product is 102,400, and scaled 12,800."""
    random = np.random.default_rng(2)
    qkv = random.choice([-40.0, 40.0], (1, 4, 192)).astype("float32")
    qkv[..., 128:] = random.normal(size=(1, 4, 64))
    dtype, half, gradient = attending("mixed_float16", qkv)
    assert dtype == "float16"
    assert np.isfinite(half).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(half, attending("float32", qkv)[1], atol=2e-3)


@pytest.mark.usefixtures("policy_kept")
@pytest.mark.parametrize(("head", "dtype"), [("float32", "float32"), ("policy", "bfloat16")])
def test_the_policy_of_the_head_is_that_of_the_product_with_the_embedding(head, dtype):
    model = precision.build(
        lambda: gpt.build(shape=(4,), classes=10, depth=1, heads=1, width=4),
        policy="mixed_bfloat16",
        head=head,
    )
    assert model(np.zeros((1, 4), "int32")).dtype == dtype
    assert model.get_layer("token_embedding").compute_dtype == dtype
    assert model.get_layer("block1_attention_qkv").compute_dtype == "bfloat16"


@pytest.mark.parametrize("build", [gpt.build, vit.build], ids=["gpt", "vit"])
def test_a_saved_transformer_needs_no_code_of_ours(tmp_path, build):
    shape = (8,) if build is gpt.build else (8, 8, 1)
    model = build(shape=shape, classes=5, depth=1, heads=2, width=8, dropout=0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.ones((2, *shape), "int32")
    np.testing.assert_array_equal(loaded(x), model(x))
    modules = {type(operation).__module__ for operation in loaded.operations}
    assert all(module.startswith("keras.") for module in modules)


@pytest.mark.parametrize(
    ("build", "words", "where"),
    [
        (gpt.build, {"shape": (8, 8, 1)}, "model"),
        (gpt.build, {"classes": None}, "model"),
        (gpt.build, {"width": 10, "heads": 4}, "model.heads"),
        (gpt.build, {"depth": 0}, "model.depth"),
        (gpt.build, {"pad_vocabulary": 0}, "model.pad_vocabulary"),
        (gpt.build, {"dropout": 1}, "model.dropout"),
        (vit.build, {"shape": (8,)}, "model"),
        (vit.build, {"shape": (9, 8, 1)}, "model.patch"),
        (vit.build, {"shape": (2, 2, 1)}, "model"),
        (vit.build, {"patch": 0}, "model.patch"),
        (vit.build, {"pool": "max"}, "model.pool"),
        (vit.build, {"heads": 0}, "model.heads"),
        (vit.build, {"width": 0}, "model.width"),
    ],
)
def test_what_they_refuse(build, words, where):
    shape = (8,) if build is gpt.build else (8, 8, 1)
    with pytest.raises(ConfigurationError) as error:
        build(**{"shape": shape, "classes": 4, **words})
    assert error.value.where == where
