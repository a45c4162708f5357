"""Shares and errors equal what plain NumPy gives on the same arrays."""

import math

import ml_dtypes
import numpy as np
import pytest

from mpt.probing.measures import Distance, Gradients, Losses, add_backward, add_forward, merged
from mpt.probing.observation import Observation, Seen

TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def gradients(size=20_000, centre=-22.0):
    random = np.random.default_rng(0)
    spread = np.exp2(random.normal(centre, 6, size)) * random.choice([-1, 1], size)
    spread[::5] = 0
    return spread.astype("float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_shares_equal_numpy_s(dtype, scale):
    true = gradients(centre=-22 if dtype == "float16" else -128)
    narrow = (true * np.float32(scale)).astype(TYPES[dtype])
    losses = Losses()
    losses.add(narrow.reshape(200, 100), true.reshape(200, 100), dtype)
    wide = narrow.astype("float64")
    non_zero = true != 0
    assert losses.non_zero == np.count_nonzero(non_zero) > 0
    assert losses.underflow_share == np.mean(wide[non_zero] == 0)
    below = (np.abs(wide) < float(ml_dtypes.finfo(dtype).smallest_normal)) & (wide != 0)
    assert losses.subnormal_share == np.mean(below)
    assert losses.subnormal > 0
    assert losses.largest == np.abs(wide).max()
    top = float(ml_dtypes.finfo(dtype).max)
    assert losses.headroom_bits == pytest.approx(math.log2(top / losses.largest))
    assert losses.finite


def test_what_overflows_is_not_the_largest_but_counts():
    true = np.array([1.0, 2.0, 1e6], "float32")
    losses = Losses()
    losses.add(np.array([1.0, 2.0, np.inf], "float16"), true, "float16")
    assert not losses.finite
    assert losses.largest == 2.0
    other = Losses()
    other.add(true[:2].astype("float16") * np.float16(4), true[:2], "float16")
    together = merged([losses, other])
    assert (together.largest, together.elements, together.finite) == (8.0, 5, False)


def test_zeros_of_the_reference_are_not_lost():
    losses = Losses()
    losses.add(np.zeros(4, "float16"), np.zeros(4, "float32"), "float16")
    assert losses.underflow_share is None
    assert losses.subnormal_share == 0
    assert losses.headroom_bits == math.inf


def test_relative_error_is_that_of_the_norms_over_all_parts():
    random = np.random.default_rng(1)
    true = [random.normal(size=(30, 40)).astype("float32") for _ in range(2)]
    seen = [(x * 8 + random.normal(scale=0.1, size=x.shape)).astype("float32") for x in true]
    distance = Distance()
    for value, reference in zip(seen, true, strict=True):
        distance.add(value, reference, scale=8.0)
    flat = np.concatenate([x.ravel() for x in seen]).astype("float64") / 8
    expected = np.concatenate([x.ravel() for x in true]).astype("float64")
    relative = np.linalg.norm(flat - expected) / np.linalg.norm(expected)
    assert distance.relative == pytest.approx(relative, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "reference", "relative"),
    [
        ([], [], None),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], math.inf),
        ([math.nan], [1.0], math.inf),
        ([math.inf, 1.0], [1.0, 1.0], math.inf),
        ([2.0], [1.0], 1.0),
    ],
)
def test_relative_error_at_the_edges(value, reference, relative):
    distance = Distance()
    distance.add(np.array(value, "float32"), np.array(reference, "float32"))
    assert distance.relative == relative


def test_float32_gradients_are_no_part_of_the_half_precision_totals():
    true = gradients()
    found = Gradients()
    found.add(true, true, 1.0, "float32")
    assert (found.half.elements, found.exponents.total) == (0, 0)
    found.add(true.astype("float16"), true, 1.0, "float16")
    assert found.half.elements == found.exponents.total == true.size
    assert found.losses.elements == 2 * true.size


def seen(**arrays):
    return Observation({"layer": Seen("layer", None, **arrays)}, loss=0.0)


def test_a_layer_spoils_what_comes_finite_and_leaves_infinite():
    fine, broken = np.ones(2, "float16"), np.array([1, np.inf], "float16")
    for arrays, spoils in (
        ({"activation_gradients": [fine], "input_gradients": [broken]}, True),
        ({"activation_gradients": [fine], "weight_gradients": [broken]}, True),
        ({"activation_gradients": [broken], "input_gradients": [broken]}, False),
        ({"activation_gradients": [fine], "input_gradients": [fine, None]}, False),
    ):
        layers = {}
        now, true = seen(outputs=[fine], **arrays), seen(outputs=[fine])
        add_forward(layers, now, true)
        add_backward(layers, now, true, 1.0)
        assert layers["layer"].scales[1.0].spoils is spoils


def test_gradients_that_came_in_one_step_only_are_not_compared():
    one = np.ones(3, "float16")
    layers = {}
    now = seen(outputs=[one], activation_gradients=[one, None])
    true = seen(outputs=[one], activation_gradients=[None, one])
    add_forward(layers, now, true)
    add_backward(layers, now, true, 1.0)
    assert layers["layer"].scales[1.0].relative_error is None
