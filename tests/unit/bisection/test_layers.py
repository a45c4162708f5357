"""Rules that keep chosen layers in float32, held against what mpt.precision makes of them."""

import random

import keras
import pytest

from mpt import precision
from mpt.bisection.layers import Layers


class Scale(keras.layers.Layer):
    def call(self, x):
        return 2 * x


class Block(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.scale = Scale(name="scale")
        self.pair = keras.Sequential(
            [keras.layers.Dense(3, name="dense"), Scale(name="scale")], name="pair"
        )

    def call(self, x):
        return self.pair(self.scale(self.dense(x)))


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(name="net", **kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.one = Block(name="one")
        self.two = Block(name="two")
        self.kept = keras.layers.Dense(3, name="kept", dtype="float64")
        self.head = keras.layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.kept(self.two(self.one(self.dense(x)))))


def functional():
    inputs = keras.Input((3,))
    x = keras.layers.Dense(3, name="dense")(inputs)
    inner = keras.Input((3,), name="inner")
    x = keras.Model(
        inner, Scale(name="scale")(keras.layers.Dense(3, name="dense")(inner)), name="b"
    )(x)
    x = Block(name="one")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(x), name="net")


def table(builder, overrides=(), policy="mixed_float16"):
    return precision.table(precision.build(builder, policy=policy, overrides=overrides))


def computes_in(rows):
    return {row["path"]: (row["variable_dtype"], row["compute_dtype"]) for row in rows}


@pytest.fixture(scope="module", params=[(Net, ()), (functional, ()), (Net, ("one/pair",))])
def case(request):
    """A builder, the user's own overrides, and the table under the policy."""
    builder, kept = request.param
    own = [{"match": path, "policy": "float32"} for path in kept]
    return builder, own, table(builder, own)


def test_candidates_are_the_layers_in_half_precision_children_first(case):
    layers = Layers(case[2])
    half = {row["path"] for row in case[2] if row["compute_dtype"] == "float16"}
    assert set(layers.candidates) == half - ({"net"} if case[0] is functional else set())
    for path in layers.candidates:
        for other in layers.candidates:
            if other.startswith(f"{path}/"):
                assert layers.candidates.index(other) < layers.candidates.index(path)


@pytest.mark.parametrize("seed", range(8))
def test_rules_keep_exactly_the_chosen_layers_in_float32(case, seed):
    builder, own, before = case
    layers = Layers(before)
    draw = random.Random(seed)
    every = sorted(layers.all)
    kept = frozenset(draw.sample(every, draw.randint(1, len(every))))
    rules = layers.overrides(kept)
    after = computes_in(table(builder, [*own, *rules]))
    for row in before:
        path = row["path"]
        if path in layers.all:
            expected = "float32" if path in kept else "float16"
            assert after[path] == ("float32", expected), (path, kept, rules)
        elif row["class"] not in ("Functional", "Sequential"):
            assert after[path] == (row["variable_dtype"], row["compute_dtype"])


def test_a_layer_with_all_inside_it_is_one_rule():
    layers = Layers(table(Net))
    assert layers.within("one") == {
        "one",
        "one/dense",
        "one/scale",
        "one/pair/dense",
        "one/pair/scale",
    }
    assert layers.overrides(layers.within("one")) == [{"match": "one", "policy": "float32"}]
    assert layers.overrides(layers.within("one/pair")) == [
        {"match": "one/pair", "policy": "float32"}
    ]


def test_a_layer_without_its_children_gives_them_their_policy_back():
    assert Layers(table(Net)).overrides({"one"}) == [
        {"match": "one", "policy": "float32"},
        {"match": "one/dense", "policy": "mixed_float16"},
        {"match": "one/scale", "policy": "mixed_float16"},
        {"match": "one/pair", "policy": "mixed_float16"},
    ]


def test_all_layers_in_float32():
    layers = Layers(table(Net))
    after = computes_in(table(Net, layers.overrides(layers.all)))
    assert "float16" not in {compute for _, compute in after.values()}
    assert after["kept"] == ("float64", "float64")


def test_the_model_itself_stands_alone():
    layers = Layers(table(Net))
    assert layers.candidates[-1] == "net"
    assert layers.within("net") == {"net"}
    assert Layers(table(functional)).candidates[-1] != "net"


def test_a_pure_policy_keeps_its_variables():
    layers = Layers(table(Net, policy="bfloat16"))
    rules = layers.overrides({"one/dense"})
    assert rules == [{"match": "one/dense", "policy": "float32"}]
    after = computes_in(table(Net, rules, policy="bfloat16"))
    assert after["one/dense"] == ("float32", "float32")
    assert after["one/scale"] == ("bfloat16", "bfloat16")


def row(path, kind="Dense", variable="float32", compute="float16"):
    return {"path": path, "class": kind, "variable_dtype": variable, "compute_dtype": compute}


def test_a_pattern_names_one_layer_only():
    layers = Layers(
        [row("net", "Functional"), row("a"), row("b"), row("b/a"), row("a[1]"), row("a#2")]
    )
    assert layers.match("b") == "b"
    assert layers.match("b/a") == "b/a"
    assert layers.match("a") == "regex:^a$"  # a glob without a slash would name b/a too
    assert layers.match("a[1]") == r"regex:^a\[1\]$"
    assert layers.match("a#2") == r"regex:^a\#2$"


def test_layers_of_integers_and_an_empty_table():
    rows = [row("net", "Functional"), row("lookup", "StringLookup", "int64", "int64"), row("x")]
    assert Layers(rows).candidates == ["x"]
    assert Layers([]).candidates == []
