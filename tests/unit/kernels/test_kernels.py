"""The fused kernels against Keras's own operations, and these against float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import kernels
from mpt.kernels.islands import LEAST

ROWS, WIDTH = 256, 512  # above LEAST elements
TOLERANCE = {"float32": 5e-6, "bfloat16": 1e-2, "float16": 1.5e-3}
DTYPES = tuple(TOLERANCE)


def values(*shape, dtype="float64", seed=0, spread=2.0):
    return tf.cast(np.random.default_rng(seed).normal(0, spread, shape), dtype)


def with_gradients(function, inputs, upstream):
    """What `function` gives, and its gradients by each of `inputs`."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return outputs, *tape.gradient(outputs, inputs, tf.cast(upstream, outputs.dtype))


def fused(function, inputs, upstream):
    """The same by the kernels, and the names of those that served."""
    used = set()
    with kernels.fused(used):
        return with_gradients(function, inputs, upstream), used


def error(found, reference):
    """The largest difference, over the largest number of the reference."""
    reference = np.asarray(reference, "float64")
    return np.max(np.abs(np.asarray(found, "float64") - reference)) / np.max(np.abs(reference))


def agrees(name, function, inputs, upstream, dtype):
    """The kernel gives, as nearly as `dtype` allows, what Keras gives in float64, in `dtype`."""
    rounded = [tf.cast(value, dtype) for value in inputs]
    wide = [tf.cast(value, "float64") for value in rounded]
    exact = with_gradients(function, wide, tf.cast(upstream, dtype))
    found, used = fused(function, rounded, upstream)
    assert used == {name}
    for ours, reference in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert error(tf.cast(ours, "float64"), reference) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("approximate", [True, False])
def test_gelu(dtype, approximate):
    x = values(ROWS, WIDTH)
    agrees(
        "gelu", lambda x: keras.ops.gelu(x, approximate), [x], values(ROWS, WIDTH, seed=1), dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_layer_normalization(dtype, mean):
    x = values(4, ROWS // 4, WIDTH) + mean

    def normalized(x, scale, offset):
        return keras.ops.layer_normalization(x, scale, offset, axis=-1, epsilon=1e-5)

    inputs = [x, values(WIDTH, seed=1), values(WIDTH, seed=2)]
    agrees("layer_normalization", normalized, inputs, values(*x.shape, seed=3), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
def test_attention(dtype, causal):
    query, key, value = (values(2, 64, 4, 128, seed=seed, spread=0.3) for seed in range(3))

    def attended(query, key, value):
        return keras.ops.dot_product_attention(query, key, value, is_causal=causal)

    agrees("attention", attended, [query, key, value], values(*query.shape, seed=3), dtype)


@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4), (ROWS, 1)])
def test_cross_entropy(shape):
    logits = values(*(shape[:-1] if shape[-1] == 1 else shape), WIDTH, spread=20.0)
    labels = tf.constant(np.random.default_rng(1).integers(0, WIDTH, shape), "int32")

    def losses(logits):
        return keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    upstream = values(*logits.shape[:-1], seed=2)
    agrees("cross_entropy", losses, [logits], upstream, "float32")


def test_cross_entropy_behind_a_softmax():
    """Keras takes the softmax's logits; so does the kernel, in a graph."""
    logits, labels = values(ROWS, WIDTH, dtype="float32"), tf.range(ROWS)

    @tf.function
    def losses(logits):
        return keras.ops.sparse_categorical_crossentropy(labels, tf.nn.softmax(logits))

    plain = losses(logits)
    found, used = fused(tf.function(losses.python_function), [logits], plain)
    assert used == {"cross_entropy"}
    np.testing.assert_allclose(found[0], plain, rtol=2e-6)


@pytest.mark.parametrize("label", [-1, WIDTH])
def test_cross_entropy_of_what_is_no_class(label):
    """An error that names it, as of Keras's on a CPU."""
    labels = tf.constant([label] + [0] * (ROWS - 1))
    logits = values(ROWS, WIDTH, dtype="float32")
    with (
        kernels.fused(set()),
        pytest.raises(tf.errors.InvalidArgumentError, match=f"label(.|\\n)*{label}"),
    ):
        keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_on_sequences(dtype):
    x = tf.cast(values(4, ROWS // 4, WIDTH), dtype)
    layer = keras.layers.Dense(8, activation="gelu", dtype=dtype)
    layer.build(x.shape)
    layer.bias.assign(values(8, dtype=dtype))

    def results():
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x)
            total = tf.reduce_sum(outputs * tf.cast(values(*outputs.shape, seed=1), dtype))
        return outputs, *tape.gradient(total, [x, layer.kernel.value, layer.bias.value])

    plain, used = results(), set()
    with kernels.fused(used):
        found = results()
    assert used == {"dense"}
    for ours, reference in zip(found, plain, strict=True):
        assert ours.dtype == reference.dtype
        assert error(tf.cast(ours, "float64"), tf.cast(reference, "float64")) < TOLERANCE[dtype]


# (images, kernel, strides, padding): each has a part, most have all, that a product serves.
CONVOLUTIONS = {
    "3x3": ((4, 4, 3, 256), (3, 3, 256, 512), 1, "same"),
    "3x3, valid": ((4, 6, 5, 256), (3, 3, 256, 512), 1, "valid"),
    "3x3, strided": ((4, 8, 7, 128), (3, 3, 128, 512), 2, "same"),
    "3x2, strided apart": ((4, 9, 8, 128), (3, 2, 128, 512), (2, 3), "valid"),
    "a kernel above the image": ((16, 2, 3, 128), (4, 5, 128, 512), 1, "same"),
    "pixels": ((4, 8, 7, 256), (1, 1, 256, 512), 1, "same"),
    "pixels, strided": ((8, 9, 8, 512), (1, 1, 512, 512), (2, 3), "same"),
    "pixels, strided, valid": ((8, 9, 8, 512), (1, 1, 512, 512), 3, "valid"),
    "the kernel's gradient only": ((32, 8, 8, 32), (3, 3, 32, 128), 1, "same"),
}
CONVOLVED = pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)


def convolved(strides=1, padding="same", **named):
    named = {"data_format": "channels_last", **named}
    return lambda images, kernel: keras.ops.conv(images, kernel, strides, padding, **named)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@CONVOLVED
def test_convolution(case, dtype):
    images, kernel, *how = case
    inputs = [values(*images), values(*kernel, seed=1, spread=0.05)]
    function = convolved(*how)
    upstream = values(*function(*inputs).shape, seed=2)
    agrees("convolution", function, inputs, upstream, dtype)


@CONVOLVED
def test_gradients_of_a_convolutions_gradients(case):
    images, kernel, *how = case

    def slopes(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            total = tf.reduce_sum(convolved(*how)(images, kernel) ** 3)
        by_images, by_kernel = tape.gradient(total, [images, kernel])
        return tf.concat([tf.reshape(by_images, [-1]), tf.reshape(by_kernel, [-1])], 0)

    inputs = [values(*images, spread=1.0), values(*kernel, seed=1, spread=0.05)]
    upstream = values(sum(np.prod(shape) for shape in (images, kernel)), seed=2)
    exact = with_gradients(slopes, inputs, upstream)
    found, used = fused(slopes, [tf.cast(value, "float32") for value in inputs], upstream)
    assert used == {"convolution"}
    for ours, theirs in zip(found, exact, strict=True):
        assert error(ours, theirs) < 5e-5


@pytest.mark.parametrize("place", ["images", "kernel", "upstream"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@CONVOLVED
def test_what_is_not_finite_shows_behind_a_convolution(case, bad, place):
    images, kernel, *how = case
    given = {"images": np.ones(images, "float32"), "kernel": np.ones(kernel, "float32")}
    function = convolved(*how)
    given["upstream"] = np.ones(function(*given.values()).shape, "float32")
    given[place][(-1,) * 4] = bad
    *inputs, upstream = [tf.constant(value) for value in given.values()]
    plain = with_gradients(function, inputs, upstream)
    found, used = fused(function, inputs, upstream)
    assert used == {"convolution"}
    for ours, reference in zip(found, plain, strict=True):
        missed = ~np.isfinite(reference) & np.isfinite(ours)
        assert not missed.any(), np.argwhere(missed)[:3]


@pytest.mark.parametrize(
    ("images", "kernel", "dtype", "named"),
    [
        ((4, 4, 4, 256), (3, 3, 256, 512), "float64", {}),
        ((4, 4, 4, 256), (3, 3, 256, 512), "float32", {"dilation_rate": 2}),
        ((4, 4, 4, 256), (3, 3, 128, 512), "float32", {}),
        ((4, 4, 256), (3, 256, 512), "float32", {}),
        ((4, 4, 4, 4, 64), (3, 3, 3, 64, 128), "float32", {}),
        ((4, 4, 4, 16), (3, 3, 16, 32), "float32", {}),
        ((4, 64, 64, 32), (3, 3, 32, 32), "float32", {}),
    ],
    ids=["float64", "dilated", "grouped", "1-D", "3-D", "small", "large images"],
)
def test_other_convolutions_go_the_way_of_keras(images, kernel, dtype, named):
    inputs = [values(*images, dtype=dtype), values(*kernel, seed=1, dtype=dtype)]
    function = convolved(**named)
    plain = with_gradients(function, inputs, tf.ones_like(function(*inputs)))
    found, used = fused(function, inputs, tf.ones_like(plain[0]))
    assert used == set()
    for ours, reference in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, reference)


def test_a_convolution_that_leaves_nothing_is_kerass_error():
    images, kernel = tf.ones((64, 2, 2, 512)), tf.ones((3, 3, 512, 512))
    with kernels.fused(set()), pytest.raises(ValueError, match=r"empty output|Negative dim"):
        tf.function(convolved(padding="valid"), autograph=False)(images, kernel)


BAD = {
    "gelu": keras.ops.gelu,
    "gelu by erf": lambda x: keras.ops.gelu(x, False),
    "layer_normalization": lambda x: keras.ops.layer_normalization(x, epsilon=1e-5),
    "cross_entropy": lambda x: keras.ops.sparse_categorical_crossentropy(
        tf.zeros(ROWS, "int32"), x, from_logits=True
    ),
    "attention": lambda x: keras.ops.dot_product_attention(*[tf.reshape(x, (2, 64, 4, -1))] * 3),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", BAD)
def test_what_is_not_finite_shows_wherever_keras_shows_it(name, bad):
    """A kernel that hides it would hide a step that must be skipped."""
    x = tf.tensor_scatter_nd_update(values(ROWS, WIDTH, dtype="float32"), [[3, 7]], [bad])
    upstream = tf.ones_like(BAD[name](x))
    plain = with_gradients(BAD[name], [x], upstream)
    found, used = fused(BAD[name], [x], upstream)
    assert used == {name.removesuffix(" by erf")}
    for ours, reference in zip(found, plain, strict=True):
        missed = np.isnan(reference) & np.isfinite(ours)
        assert not missed.any(), np.argwhere(missed)[:3]


FUNCTIONS = {
    "gelu": keras.ops.gelu,
    "layer_normalization": lambda x: keras.ops.layer_normalization(x, epsilon=1e-5),
    "cross_entropy": lambda x: keras.ops.sparse_categorical_crossentropy(
        tf.zeros(x.shape[:-1], "int32"), x, from_logits=True
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "x",
    [tf.zeros((LEAST // 64 - 1, 64)), tf.zeros((ROWS, WIDTH), "float64")],
    ids=["small", "float64"],
)
def test_what_a_kernel_does_not_serve_goes_the_way_of_keras(name, x):
    found, used = fused(FUNCTIONS[name], [x], FUNCTIONS[name](x))
    assert used == set()
    plain = with_gradients(FUNCTIONS[name], [x], FUNCTIONS[name](x))
    for ours, reference in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, reference)


def test_a_shape_that_is_not_known_goes_the_way_of_keras():
    used = set()

    @tf.function(input_signature=[tf.TensorSpec((None, WIDTH))])
    def function(x):
        with kernels.fused(used):
            return keras.ops.gelu(x)

    function(values(ROWS, WIDTH, dtype="float32"))
    assert used == set()


@pytest.mark.parametrize(
    "named",
    [
        {"mask": np.tril(np.ones((64, 64), bool))[np.newaxis, np.newaxis]},
        {"bias": np.ones((1, 4, 64, 64), "float32")},
    ],
    ids=["mask", "bias"],
)
def test_attention_with_a_mask_goes_the_way_of_keras(named):
    x = values(2, 64, 4, 128, dtype="float32")
    plain, used = keras.ops.dot_product_attention(x, x, x, **named), set()
    with kernels.fused(used):
        found = keras.ops.dot_product_attention(x, x, x, **named)
    assert used == set()
    np.testing.assert_array_equal(found, plain)


def test_layer_normalization_over_other_axes_goes_the_way_of_keras():
    x = values(4, ROWS // 4, WIDTH, dtype="float32")
    for axis in (1, [1, 2]):
        _, used = fused(lambda x, axis=axis: keras.ops.layer_normalization(x, axis=axis), [x], x)
        assert used == set()


def by_mean_and_variance(x):
    """Layer normalization written out: TensorFlow's moments stop a gradient that a second needs."""
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_gradients(name):
    """As a penalty on a gradient takes them."""
    x = values(ROWS, WIDTH, dtype="float32")

    def slope_of(function):
        def slope(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = tf.reduce_sum(function(x) ** 3)
            return tape.gradient(total, x)

        return slope

    reference = by_mean_and_variance if name == "layer_normalization" else FUNCTIONS[name]
    upstream = values(ROWS, WIDTH, seed=1)
    exact = with_gradients(slope_of(reference), [tf.cast(x, "float64")], upstream)
    found, used = fused(slope_of(FUNCTIONS[name]), [x], upstream)
    assert used == {name}
    for ours, theirs in zip(found, exact, strict=True):
        assert error(ours, theirs) < 5e-5


def test_keras_has_its_functions_back_after_an_error():
    before = keras.layers.Dense.call
    with pytest.raises(ZeroDivisionError), kernels.fused(set()):
        assert 1 / (keras.layers.Dense.call is before)
    assert keras.layers.Dense.call is before


def test_blocks_of_several_threads_leave_keras_as_it_was():
    """Replicas trace in threads: the one that began first may end first."""
    originals = {name: getattr(owner, at) for name, (owner, at, _) in kernels.KERNELS.items()}
    used = set()
    first, second = kernels.fused(used), kernels.fused(used)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    now = {name: getattr(owner, at) for name, (owner, at, _) in kernels.KERNELS.items()}
    assert all(now[name] is not originals[name] for name in originals)
    second.__exit__(None, None, None)
    now = {name: getattr(owner, at) for name, (owner, at, _) in kernels.KERNELS.items()}
    assert now == originals
