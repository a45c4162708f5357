"""The order in which layers are suspected."""

import numpy as np
import pytest
from known_layers import layer

from mpt.probing.ranking import rank


def order(*layers, scale=1.0):
    return [each.path for each in rank(list(layers), scale)]


def test_kinds_of_harm_come_in_their_order():
    ranked = rank(
        [
            layer("exact"),
            layer("gradient", weights=[2.0**-24 * 1.25]),
            layer("grows", entered=0.001, left=0.3),
            layer("backward", gradients=[np.inf], arrival=4),
            layer("forward", finite=False, inputs_finite=True),
        ],
        1.0,
    )
    assert [each.path for each in ranked] == ["forward", "backward", "grows", "gradient", "exact"]
    assert [int(each.score) for each in ranked] == [3, 2, 1, 0, 0]
    assert ranked[2].reason == "forward error grows from 0.001 to 0.3"


def test_the_layer_where_it_began_comes_before_those_that_it_reached():
    reached = {"finite": False, "inputs_finite": False}
    assert order(
        layer("stem"),
        layer("one", finite=False),
        layer("two", **reached),
        layer("other_branch", finite=False),
    ) == ["one", "other_branch", "two", "stem"]


def test_going_back_it_began_where_finite_gradients_became_infinite():
    spoiler = layer("spoiler", arrival=1)
    spoiler.scales[1.0].spoils = True
    victims = [layer(f"victim{i}", gradients=[np.nan], arrival=i) for i in (3, 2)]
    ranked = rank([*victims, spoiler], 1.0)
    assert [each.path for each in ranked] == ["spoiler", "victim2", "victim3"]
    assert "makes finite gradients infinite, at scale 1" in ranked[0].reason


def test_gradients_are_judged_at_the_given_scale():
    one, two = layer("one", gradients=[1.0]), layer("two", gradients=[100.0])
    assert order(one, two, scale=2.0**15)[0] == "two"
    assert all(each.score < 1 for each in rank([one, two], 1.0))


def test_a_layer_answers_only_for_what_the_layers_inside_do_not_explain():
    inner = layer("block/inner", entered=0.0, left=0.3)
    around = layer("block", entered=0.0, left=0.31, innermost=False)
    ranked = rank([inner, around], 1.0)
    assert [each.path for each in ranked] == ["block/inner", "block"]
    assert ranked[1].score == pytest.approx(1 + 0.0781 / 1.0781, abs=1e-4)  # sqrt(0.31² - 0.3²)
    assert order(inner, layer("block", left=0.5, innermost=False))[0] == "block"
    assert order(inner, layer("blocks", left=0.31))[0] == "blocks"


def test_gradient_errors_are_explained_by_the_layers_inside_too():
    off = [2.0**-24 * 1.25]
    ranked = rank([layer("a/b", weights=off), layer("a", weights=off, innermost=False)], 1.0)
    assert [each.path for each in ranked] == ["a/b", "a"]
    assert ranked[0].score > 0.1
    assert ranked[1].score == 0


def test_only_half_precision_layers_that_can_be_named_are_ranked():
    assert order(
        layer("head", dtype="float32"), layer("model", movable=False), layer("hidden")
    ) == ["hidden"]


def test_an_error_that_a_layer_only_hands_on_is_not_its_own():
    worse_but_inherited = layer("after", entered=0.4, left=0.4)
    assert order(worse_but_inherited, layer("bad", entered=0.01, left=0.39)) == ["bad", "after"]
