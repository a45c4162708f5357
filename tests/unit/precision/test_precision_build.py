"""The policy is set before the builder, holds for every layer, and survives what builders do."""

import keras
import numpy as np
import pytest

from mpt.errors import ConfigurationError
from mpt.precision import apply_table, build, computes_float16, notes, table, verify
from mpt.precision.layers import policy_name, walk

L = keras.layers


def classifier():
    inputs = keras.Input((6,))
    x = L.Dense(8, name="hidden")(inputs)
    x = L.Dropout(0.1)(x)
    x = L.Activation("relu")(x)
    return keras.Model(inputs, L.Dense(3, name="logits")(x))


class Subclassed(keras.Model):
    """Layers in the constructor; a composite one whose children come at its first call."""

    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 4, dropout=0.1)
        self.logits = L.Dense(3)

    def call(self, inputs):
        return self.logits(self.attention(inputs, inputs))


def rows(model):
    return {row["path"]: row for row in table(model)}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32", "float64"])
def test_every_layer_takes_the_policy_weightless_ones_too(policy):
    model = build(classifier, policy=policy, head="policy")
    assert {row["compute_dtype"] for row in table(model)} == {policy.removeprefix("mixed_")}
    assert {row["source"] for row in table(model)} == {"global"}
    assert {"dropout", "activation"} <= {path.split("_")[0] for path in rows(model)}
    expected = "float32" if policy.startswith("mixed_") else policy
    assert {v.dtype for v in model.trainable_variables} == {expected}
    assert keras.config.dtype_policy().name == policy


def test_a_model_made_before_the_policy_is_refused():
    model = classifier()
    with pytest.raises(ConfigurationError, match="No layer of the model took"):
        build(lambda: model, policy="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"


def test_a_model_made_before_and_wrapped_in_the_builder_is_refused():
    inner = classifier()

    def wrap():
        inputs = keras.Input((6,))
        return keras.Model(inputs, inner(inputs))

    with pytest.raises(ConfigurationError, match="No layer of the model took"):
        build(wrap, policy="mixed_float16")


def test_a_builder_that_clears_the_session_is_refused():
    def builder():
        keras.backend.clear_session()
        return classifier()

    with pytest.raises(ConfigurationError, match="from mixed_float16 to float32") as error:
        build(builder, policy="mixed_float16")
    assert "clear_session" in error.value.remedy
    build(builder, policy="float32")  # there it changes nothing


def test_a_builder_that_sets_the_policy_is_refused_and_the_former_one_put_back():
    def builder():
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        return classifier()

    with pytest.raises(ConfigurationError, match="from float32 to mixed_bfloat16"):
        build(builder, policy="float32")
    assert keras.config.dtype_policy().name == "float32"


def test_a_failing_builder_leaves_the_former_policy():
    def builder():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        build(builder, policy="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"


def test_weights_that_cannot_be_made_in_half_precision():
    recurrent = keras.Sequential
    with pytest.raises(ConfigurationError, match="weights in bfloat16") as error:
        build(lambda: recurrent([keras.Input((5, 2)), L.LSTM(3)]), policy="bfloat16")
    assert "mixed_bfloat16" in error.value.remedy


def test_a_builder_that_returns_no_model():
    with pytest.raises(ConfigurationError, match="returned Dense"):
        build(lambda: L.Dense(3), policy="float32")


@pytest.mark.parametrize(("key", "value"), [("policy", "mixed_flot16"), ("head", "flot32")])
def test_unknown_policies(key, value):
    with pytest.raises(ConfigurationError) as error:
        build(classifier, **{"policy": "float32", key: value})
    assert error.value.where == f"precision.{key}"
    assert error.value.suggestion


def test_a_dtype_that_the_builder_gives_is_kept():
    def builder():
        inputs = keras.Input((6,))
        x = L.Dense(8, dtype="mixed_bfloat16", name="own")(inputs)
        x = L.Dense(8, name="plain")(x)
        return keras.Model(inputs, L.Dense(3, dtype="mixed_bfloat16", name="logits")(x))

    model = build(builder, policy="mixed_float16")
    verify(model, (np.zeros((2, 6), "float32"), np.zeros(2)))
    found = rows(model)
    assert (found["own"]["compute_dtype"], found["own"]["source"]) == ("bfloat16", "layer")
    assert (found["logits"]["compute_dtype"], found["logits"]["source"]) == ("bfloat16", "layer")
    assert (found["plain"]["compute_dtype"], found["plain"]["source"]) == ("float16", "global")
    assert "2 layers keep the dtype" in notes(model)[0]


def test_layers_made_at_the_first_call_take_the_policy_though_the_session_was_cleared():
    model = build(Subclassed, policy="mixed_bfloat16")
    keras.backend.clear_session()
    verify(model, (np.zeros((2, 5, 4), "float32"), np.zeros(2)))
    found = rows(model)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert found["multi_head_attention/query"]["compute_dtype"] == "bfloat16"


def test_layers_made_in_build_take_the_global_policy_after_a_cleared_session():
    class Late(keras.Model):
        def build(self, shape):
            self.dense = L.Dense(4)
            self.dense.build(shape)
            self.logits = L.Dense(3)
            self.logits.build((None, 4))

        def call(self, inputs):
            return self.logits(self.dense(inputs))

    model = build(Late, policy="mixed_float16")
    keras.backend.clear_session()
    verify(model, (np.zeros((2, 6), "float32"), np.zeros(2)))
    assert rows(model)["dense"]["compute_dtype"] == "float16"


def test_computes_float16_anywhere():
    assert computes_float16(build(classifier, policy="mixed_float16"))
    assert not computes_float16(build(classifier, policy="mixed_bfloat16"))
    rule = {"match": "hidden", "policy": "mixed_float16"}
    assert computes_float16(build(classifier, policy="float32", overrides=[rule]))
    everything = {"match": "class:Layer", "policy": "float32"}
    assert not computes_float16(build(classifier, policy="mixed_float16", overrides=[everything]))


def test_integer_layers_are_left_alone():
    def builder():
        inputs = keras.Input((4,), dtype="int32")
        x = L.IntegerLookup(vocabulary=[1, 2, 3], output_mode="int")(inputs)
        x = L.Embedding(8, 4)(L.Hashing(8, name="hash")(x))
        return keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))

    everything = {"match": "*", "policy": "mixed_bfloat16"}
    model = build(builder, policy="mixed_float16", overrides=[everything])
    verify(model, (np.ones((2, 4), "int32"), np.zeros(2)))
    lookup = next(row for row in table(model) if row["class"] == "IntegerLookup")
    assert lookup["compute_dtype"].startswith("int")
    assert model.get_layer("hash").dtype_policy.name == "int64"


def test_paths_are_unique_and_name_nested_layers():
    def builder():
        inner = keras.Sequential([keras.Input((6,)), L.Dense(4, name="dense")], name="inner")
        inputs = keras.Input((6,))
        return keras.Model(inputs, L.Dense(3, name="dense")(inner(inputs)), name="outer")

    paths = [row["path"] for row in table(build(builder, policy="float32"))]
    assert paths == ["outer", "inner", "inner/dense", "dense"]

    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = L.Dense(3, name="twin"), L.Dense(3, name="twin")

        def call(self, inputs):
            return self.two(self.one(inputs))

    assert [row["path"] for row in table(build(Twins, policy="float32"))][1:] == ["twin", "twin#2"]


def test_the_table_gives_a_loaded_model_back_what_the_file_lost(tmp_path):
    def builder():
        inputs = keras.Input((5, 4))
        x = L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
        return keras.Model(inputs, L.Dense(3, name="logits")(x))

    rule = {"match": "attention/query", "policy": "float32"}
    model = build(builder, policy="mixed_bfloat16", overrides=[rule])
    saved = table(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    query = dict(walk(loaded))["attention/query"]
    assert query.compute_dtype == "bfloat16"  # what Keras loses
    apply_table(loaded, saved)
    assert query.compute_dtype == "float32"
    # Automatic names inside a layer are not saved; the rest is equal.
    assert [{**row, "path": ""} for row in table(loaded)] == [{**row, "path": ""} for row in saved]
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    verify(loaded, (x, np.zeros(2)))


def test_the_table_fits_a_model_whose_automatic_names_differ():
    rule = {"match": "class:Activation", "policy": "float32"}
    saved = table(build(classifier, policy="mixed_bfloat16", overrides=[rule]))
    keras.config.set_dtype_policy("mixed_bfloat16")
    other = classifier()
    assert [path for path, _ in walk(other)] != [row["path"] for row in saved]
    apply_table(other, saved)
    dtypes = [(row["class"], row["compute_dtype"], row["source"]) for row in table(other)]
    assert dtypes == [(row["class"], row["compute_dtype"], row["source"]) for row in saved]


def test_the_table_of_another_model_is_refused():
    saved = table(build(classifier, policy="float32"))
    other = build(lambda: keras.Sequential([keras.Input((3,)), L.Dense(2)]), policy="float32")
    with pytest.raises(ConfigurationError, match="not of this model"):
        apply_table(other, saved)


def test_a_map_of_policies_in_the_builder_is_kept_and_can_be_overridden():
    def builder():
        policies = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_float16")
        policies["hidden"] = keras.DTypePolicy("mixed_bfloat16")
        inputs = keras.Input((6,))
        x = L.Dense(8, name="hidden", dtype=policies)(inputs)
        x = L.Dense(8, name="more", dtype=policies)(x)
        return keras.Model(inputs, L.Softmax(name="softmax", dtype=policies)(x))

    rule = {"match": "softmax", "policy": "float32"}
    model = build(builder, policy="mixed_float16", overrides=[rule], head="policy")
    layers = dict(walk(model))
    assert policy_name(layers["softmax"]) == "float32"
    assert policy_name(layers["hidden"]) == "mixed_bfloat16"
    assert policy_name(layers["more"]) == "mixed_float16"
