"""The initial scale, and whether one is needed, on gradients that are known."""

import math

import numpy as np
import pytest
from known_layers import layer

from mpt.probing.recommendation import SCALES, histograms, recommend, scale_row
from mpt.report.numbers import power_of_two


def rows_of(layers, scales=SCALES):
    return [scale_row(layers, scale) for scale in scales]


def recommended(*layers, policy="mixed_float16", scales=SCALES):
    return recommend(list(layers), rows_of(layers, scales), policy)


@pytest.mark.parametrize(
    ("largest", "scale"),
    [
        (1.0, 2.0**13),  # 65504 is just below 2^16: 2^14 leaves a little less than two bits
        (0.999, 2.0**14),
        (2.0**-11, 2.0**24),  # no more than that
        (2.0**-20, 2.0**24),
        (2.0**12, 2.0),
    ],
)
def test_the_scale_is_the_largest_with_two_bits_of_headroom(largest, scale):
    found = recommended(layer("one", gradients=[largest, largest / 2]))
    assert found.initial_scale == scale
    assert math.log2(65504 / (largest * scale)) >= 2
    assert scale == 2.0**24 or math.log2(65504 / (2 * largest * scale)) < 2


def test_weight_gradients_count_as_activations_do():
    assert recommended(layer("one", gradients=[0.1], weights=[0.999])).initial_scale == 2.0**14


def test_a_float32_layer_does_not_bound_the_scale():
    found = recommended(
        layer("one", gradients=[0.999]), layer("head", gradients=[1e9], dtype="float32")
    )
    assert found.initial_scale == 2.0**14


def test_gradients_that_float16_cannot_hold_make_scaling_needed():
    lost, kept = [2.0**-27] * 2, [2.0**-10] * 98
    found = recommended(layer("first"), layer("second", gradients=lost + kept))
    assert found.needed
    assert "second loses 2% of its non-zero gradients" in found.message
    assert f"loss_scale.initial_scale={found.initial_scale:.0f}" in found.message
    assert "mixed_float16" in found.message
    assert not recommended(layer("one", gradients=lost[:1] + kept * 2)).needed


def test_an_error_that_scaling_mends_makes_it_needed():
    """At scale 1 nothing is lost, but 2^-23 * 1.5 has one bit left: its error is a third."""
    found = recommended(layer("one", weights=[2.0**-24 * 1.25] * 10, gradients=[2.0**-12]))
    assert found.needed
    assert "20.0% off at scale 1, 0.0% at 2^24" in found.message


def test_an_error_that_scaling_does_not_mend_does_not():
    made = layer("one", gradients=[1.0], weights=[1.0])
    for at in made.scales.values():
        at.weights.error.difference = 0.5
    assert not recommended(made).needed


def test_without_float16_and_without_need_the_scale_is_one():
    found = recommended(layer("one", dtype="float32"), policy="mixed_bfloat16")
    assert (found.needed, found.initial_scale) == (False, 1.0)
    assert "mixed_bfloat16 needs no loss scaling" in found.message


def test_a_scale_below_one_where_scale_one_has_too_little_headroom():
    scales = (0.125, 0.25, 0.5, *SCALES)
    found = recommended(layer("one", gradients=[30000.0], scales=scales), scales=scales)
    assert found.initial_scale == 0.5


def test_an_overflow_going_forward_has_no_scale():
    found = recommended(
        layer("fine", gradients=[np.nan]), layer("boom", gradients=[np.nan], finite=False)
    )
    assert found.initial_scale is None
    assert "boom first: no loss scale helps" in found.message


def test_too_large_gradients_are_said():
    found = recommended(layer("one", gradients=[1e9]))
    assert found.initial_scale is None
    assert "no loss scale down to 2^0" in found.message


def test_a_scale_at_which_any_gradient_overflows_is_not_finite():
    row = scale_row([layer("one", gradients=[1.0]), layer("two", gradients=[2.0])], 2.0**15)
    assert not row.finite
    assert not row.has_headroom


def test_totals_take_activations_of_the_innermost_layers_only():
    inner, outer = layer("a/b", gradients=[1.0, 2.0]), layer("a", gradients=[8.0], innermost=False)
    assert scale_row([inner, outer], 1.0).largest == 2.0
    assert histograms([inner, outer], 1.0)["activation_gradients"].total == 2
    assert histograms([inner, outer], None)["activation_gradients"].by_exponent() == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("scale", "text"),
    [(1.0, "2^0"), (32768.0, "2^15"), (0.25, "2^-2"), (1e5, "100000"), (None, "-")],
)
def test_powers_of_two_are_written_as_such(scale, text):
    assert power_of_two(scale) == text


def test_without_gradients_there_is_nothing_to_scale():
    found = recommended(layer("frozen", gradients=[0.0]))
    assert (found.needed, found.initial_scale) == (False, None)
    assert "nothing to scale" in found.message


@pytest.mark.parametrize("movable", [True, False])
def test_an_operation_that_is_not_finite_gets_no_override(movable):
    found = recommended(layer("square", finite=False, movable=movable, gradients=[math.inf]))
    assert ("precision.overrides" in found.message) is movable
    assert ("put it into a layer of its own" in found.message) is not movable
    assert "square first" in found.message
    assert found.message.endswith(", or take mixed_bfloat16.")
