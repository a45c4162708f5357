"""Rules: what they name, whom they reach, and what layers froze under the policy before."""

import keras
import numpy as np
import pytest

from mpt.errors import ConfigurationError
from mpt.precision import build, notes, table, verify

L = keras.layers


def network():
    inputs = keras.Input((5, 4), name="x")
    x = L.MultiHeadAttention(2, 4, dropout=0.1, name="attention")(inputs, inputs)
    encoder = keras.Sequential([keras.Input((5, 4)), L.Dense(4, name="inside")], name="encoder")
    x = encoder(x)
    x = L.Bidirectional(L.LSTM(3), name="both")(x)
    return keras.Model(inputs, L.Softmax()(L.Dense(3, name="logits")(x)))


def computed(overrides, policy="mixed_bfloat16", builder=network):
    model = build(builder, policy=policy, overrides=overrides)
    return {row["path"]: (row["compute_dtype"], row["source"]) for row in table(model)}


@pytest.mark.parametrize(
    ("match", "named"),
    [
        ("encoder/inside", {"encoder/inside"}),
        ("inside", {"encoder/inside"}),
        ("encoder/*", {"encoder/inside"}),
        ("regex:^encoder/in", {"encoder/inside"}),
        ("class:Bidirectional", {"both", "both/forward_lstm", "both/forward_lstm/lstm_cell"}),
        ("class:LSTMCell", {"both/forward_lstm/lstm_cell", "both/backward_lstm/lstm_cell"}),
        ("attention", {"attention", "attention/query", "attention/softmax"}),
        ("class:MultiHead*", {"attention/value", "attention/attention_output"}),
        ("encoder", {"encoder", "encoder/inside"}),
    ],
)
def test_a_rule_reaches_what_it_names_and_its_descendants(match, named):
    found = computed([{"match": match, "policy": "float32"}])
    # Names of layers inside layers carry numbers that grow from build to build.
    hit = {
        "/".join(part.rstrip("0123456789").rstrip("_") for part in path.split("/"))
        for path, value in found.items()
        if value == ("float32", "override")
    }
    assert named <= hit
    assert not any(path.startswith("encoder") for path in hit - named - {"encoder"})


def test_a_rule_by_class_reaches_weightless_layers_whatever_their_automatic_name():
    network()  # the next Softmax is softmax_N
    found = computed([{"match": "class:Dropout", "policy": "float64"}])
    (value,) = [v for path, v in found.items() if "dropout" in path]
    assert value == ("float64", "override")


def test_the_last_match_wins():
    rules = [
        {"match": "class:Dense", "policy": "float64"},
        {"match": "inside", "policy": "mixed_float16"},
    ]
    assert computed(rules)["encoder/inside"] == ("float16", "override")
    assert computed(rules[::-1])["encoder/inside"] == ("float64", "override")


def test_a_rule_wins_over_the_head_and_says_so():
    rule = {"match": "logits", "policy": "mixed_float16"}
    model = build(network, policy="mixed_float16", overrides=[rule])
    found = {row["path"]: row for row in table(model)}
    assert (found["logits"]["compute_dtype"], found["logits"]["source"]) == ("float16", "override")
    assert any("takes logits" in note for note in notes(model))


@pytest.mark.parametrize(
    ("match", "hint"),
    [
        ("lgits", "Did you mean 'logits'"),
        ("encoder/insid", "Did you mean 'encoder/inside'"),
        ("class:Softmx", "Did you mean 'class:Softmax'"),
        ("regex:^nothing$", "No layer matches"),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error(match, hint):
    rules = [{"match": "logits", "policy": "float32"}, {"match": match, "policy": "float32"}]
    with pytest.raises(ConfigurationError, match=hint) as error:
        build(network, policy="mixed_bfloat16", overrides=rules)
    assert error.value.where == "precision.overrides[1].match"


@pytest.mark.parametrize("match", ["square", "exp", "nested/exp"])
def test_a_rule_that_names_an_operation_is_told_what_to_do(match):
    def squared():
        inputs, inner = keras.Input((4,)), keras.Input((4,))
        nested = keras.Model(inner, keras.ops.exp(L.Dense(4)(inner)), name="nested")
        return keras.Model(inputs, L.Dense(3)(keras.ops.square(nested(inputs))))

    keras.utils.clear_session()  # names of operations are counted
    with pytest.raises(ConfigurationError, match=f"'{match}' is an operation of the") as caught:
        build(squared, policy="mixed_float16", overrides=[{"match": match, "policy": "float32"}])
    assert "keras.ops.cast(x, 'float32')" in caught.value.remedy


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ("class:Softmax", "precision.overrides[0]"),
        ({"match": "logits"}, "precision.overrides[0]"),
        ({"match": "logits", "policy": "float32", "more": 1}, "precision.overrides[0]"),
        ({"match": "logits", "policy": "auto"}, "precision.overrides[0].policy"),
        ({"match": "", "policy": "float32"}, "precision.overrides[0].match"),
        ({"match": 3, "policy": "float32"}, "precision.overrides[0].match"),
        ({"match": "regex:(", "policy": "float32"}, "precision.overrides[0].match"),
    ],
)
def test_a_rule_that_is_none(rule, where):
    with pytest.raises(ConfigurationError) as error:
        build(network, policy="float32", overrides=[rule])
    assert error.value.where == where


def test_a_rule_on_children_that_exist_only_after_the_first_call():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = L.MultiHeadAttention(2, 4)

        def call(self, inputs):
            return self.attention(inputs, inputs)

    batch = (np.zeros((2, 5, 4), "float32"), np.zeros(2))
    rule = {"match": "*/query", "policy": "float32"}
    model = build(Model, policy="mixed_bfloat16", overrides=[rule], head="policy")
    verify(model, batch)
    found = {row["path"].split("/")[-1]: row["compute_dtype"] for row in table(model)}
    assert (found["query"], found["key"]) == ("float32", "bfloat16")

    model = build(Model, policy="mixed_bfloat16", overrides=[{**rule, "match": "*/quiry"}])
    with pytest.raises(ConfigurationError, match="No layer matches"):
        verify(model, batch)


@pytest.mark.parametrize("adapted", [True, False])
def test_normalization_thaws_the_statistics_that_it_froze_in_half_precision(adapted):
    def builder():
        given = {} if adapted else {"mean": 1e5, "variance": 1e10}
        layer = L.Normalization(axis=None, name="normalize", **given)
        if adapted:
            layer.adapt(np.array([[0.0], [2e5]], "float32"))
        inputs = keras.Input((1,))
        return keras.Model(inputs, L.Dense(1, kernel_initializer="ones")(layer(inputs)))

    rule = {"match": "class:Normalization", "policy": "float32"}
    model = build(builder, policy="mixed_float16", overrides=[rule])
    x = np.array([[2e5]], "float32")
    verify(model, (x, np.zeros(1)))
    np.testing.assert_allclose(model(x), [[1.0]], rtol=1e-6)

    with pytest.raises(ConfigurationError, match="statistics of the Normalization") as error:
        verify(build(builder, policy="mixed_float16"), (x, np.zeros(1)))
    assert "class:Normalization" in error.value.remedy


def test_an_override_equals_building_with_that_dtype():
    def builder(dtype=None):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6,))
        x = L.Dense(8, name="first", dtype=dtype)(inputs)
        return keras.Model(inputs, L.Dense(3)(x))

    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    rule = {"match": "first", "policy": "float32"}
    overridden = build(builder, policy="mixed_bfloat16", overrides=[rule])
    built = build(lambda: builder("float32"), policy="mixed_bfloat16")
    np.testing.assert_array_equal(overridden(x), built(x))


def test_a_rule_moves_variables_where_the_policy_keeps_them_in_half_precision():
    def builder():
        inputs = keras.Input((6,))
        return keras.Model(inputs, L.Dense(3)(L.Dense(4, name="inside")(inputs)))

    rule = {"match": "inside", "policy": "float32"}
    model = build(builder, policy="float16", overrides=[rule], head="policy")
    inside, outside = model.layers[1:]
    assert [v.dtype for v in inside.weights] == ["float32", "float32"]
    assert [v.dtype for v in outside.weights] == ["float16", "float16"]
    assert inside.kernel.numpy().dtype == np.float32
    assert any(v is inside.kernel for v in model.trainable_variables)
    verify(model, (np.zeros((2, 6), "float32"), np.zeros(2)))


def test_a_float32_layer_in_a_nested_model_gets_what_a_float32_layer_before_it_gave():
    def builder():
        inputs = keras.Input((4,))
        large = keras.initializers.Constant(1e5)
        x = keras.layers.Dense(4, kernel_initializer=large, name="large")(inputs)
        small = keras.layers.Dense(4, kernel_initializer="ones", name="small")
        return keras.Model(inputs, keras.Sequential([small], name="inner")(x))

    rules = [{"match": name, "policy": "float32"} for name in ("large", "inner/small")]
    model = build(builder, policy="mixed_float16", overrides=rules)
    x = np.ones((1, 4), "float32")
    np.testing.assert_allclose(model(x), np.full((1, 4), 1.6e6), rtol=1e-6)
