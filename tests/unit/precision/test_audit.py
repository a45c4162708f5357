"""The dry run finds what is not as asked, before a step is trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.precision import apply_table, build, table, verify

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
BATCH = (X, np.zeros(4, "int32"))


def classifier():
    inputs = keras.Input((6,))
    x = L.Dense(8, name="hidden")(inputs)
    return keras.Model(inputs, L.Softmax(name="soft")(L.Dense(3, name="logits")(x)))


@pytest.mark.parametrize("name", ["hidden", "logits", "soft"])
def test_a_policy_changed_behind_our_back(name):
    model = build(classifier, policy="mixed_bfloat16")
    verify(model, BATCH)
    model.get_layer(name)._dtype_policy = keras.DTypePolicy("mixed_float16")
    plan_kept = table(model)
    with pytest.raises(ConfigurationError, match=f"'{name}' is under mixed_float16"):
        _verify_without_repair(model)
    assert plan_kept == table(model)


def _verify_without_repair(model):
    """`verify` gives layers their policy again first; what it cannot repair is an error."""
    from mpt.precision import audit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "refine", lambda *_, **__: None)
        verify(model, BATCH)


def test_weights_in_another_dtype_than_asked():
    model = build(classifier, policy="mixed_bfloat16")
    kernel = model.get_layer("hidden").kernel
    kernel._dtype = "float16"
    kernel._initialize(tf.cast(kernel._value, "float16"))
    with pytest.raises(ConfigurationError, match="'hidden' keeps kernel in float16"):
        verify(model, BATCH)


def test_a_layer_that_computes_in_another_dtype_than_its_policy(monkeypatch):
    model = build(classifier, policy="mixed_bfloat16")
    monkeypatch.setattr(
        model.get_layer("soft"), "call", lambda x, mask=None: keras.ops.cast(x, "bfloat16")
    )
    with pytest.raises(ConfigurationError, match="'soft' gives bfloat16"):
        verify(model, BATCH)


def test_a_model_that_does_not_compute_in_half_precision():
    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(6)

        def call(self, inputs):
            return tf.matmul(self.dense(inputs), tf.ones((6, 3)))

    verify(build(Mixed, policy="float32"), BATCH)
    with pytest.raises(ConfigurationError, match="does not compute under the policy") as error:
        verify(build(Mixed, policy="mixed_float16", head="policy"), BATCH)
    assert error.value.where == "precision.policy"


class Wide(keras.Model):
    """A subclassed model: Keras casts its inputs to float16 before the first layer sees them."""

    def __init__(self, own_operation=False):
        super().__init__()
        self.first = L.Dense(2, kernel_initializer="ones", use_bias=False, name="first")
        self.own_operation = own_operation

    def call(self, inputs):
        return self.first(inputs / 2 if self.own_operation else inputs)


FIRST = {"match": "first", "policy": "float32"}
LARGE = np.full((1, 2), 1e5, "float32")


def test_a_subclassed_model_hands_its_inputs_to_a_float32_layer_uncast():
    model = build(Wide, policy="mixed_float16", overrides=[FIRST])
    assert np.isinf(model(LARGE)).all()  # plain Keras
    verify(model, (LARGE, np.zeros(1)))
    np.testing.assert_array_equal(model(LARGE), [[2e5, 2e5]])
    np.testing.assert_array_equal(model(tf.constant(LARGE)), [[2e5, 2e5]])
    np.testing.assert_array_equal(model.predict(LARGE, verbose=0), [[2e5, 2e5]])
    assert model.dtype_policy == keras.DTypePolicy("mixed_float16")
    saved = table(model)
    assert saved[0]["inputs"] == "uncast"
    again = Wide()
    again(LARGE)
    apply_table(again, saved)
    np.testing.assert_array_equal(again(LARGE), [[2e5, 2e5]])


def test_a_nested_subclassed_layer_hands_them_on_too():
    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = Wide()

        def call(self, inputs):
            return self.inner(inputs)

    model = build(Outer, policy="mixed_float16", overrides=[FIRST])
    verify(model, (LARGE, np.zeros(1)))
    np.testing.assert_array_equal(model(LARGE), [[2e5, 2e5]])


def test_inputs_that_overflow_float16_are_refused():
    model = build(lambda: Wide(own_operation=True), policy="mixed_float16", overrides=[FIRST])
    with pytest.raises(ConfigurationError, match=r"reach 100000, and 'wide.*' casts"):
        verify(model, (LARGE, np.zeros(1)))

    def functional():
        inputs = keras.Input((2,))
        return keras.Model(inputs, L.Dense(2)(L.Dense(2, name="low")(inputs)))

    with pytest.raises(ConfigurationError, match="'low' casts them to float16"):
        verify(build(functional, policy="mixed_float16"), (LARGE, np.zeros(1)))
    verify(build(functional, policy="mixed_bfloat16"), (LARGE, np.zeros(1)))
    verify(build(functional, policy="mixed_float16"), (LARGE * np.nan, np.zeros(1)))


def test_a_given_normalization_inside_a_subclassed_model():
    class Normalized(keras.Model):
        def __init__(self):
            super().__init__()
            self.normalize = L.Normalization(mean=1e5, variance=1e8)
            self.dense = L.Dense(3)

        def call(self, inputs):
            return self.dense(self.normalize(inputs))

    rule = {"match": "class:Normalization", "policy": "float32"}
    model = build(Normalized, policy="mixed_float16", overrides=[rule])
    verify(model, (LARGE, np.zeros(1)))
    assert np.isfinite(model(LARGE)).all()


def test_a_model_with_only_a_train_step():
    class Adversarial(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential([keras.Input((2,)), L.Dense(3, name="make")])

        def train_step(self, data):
            return {}

    model = build(Adversarial, policy="mixed_float16")
    verify(model, BATCH)
    assert {r["compute_dtype"] for r in table(model) if r["path"].endswith("make")} == {"float16"}
    rule = {"match": "nothing", "policy": "float32"}
    with pytest.raises(ConfigurationError, match="No layer matches"):
        verify(build(Adversarial, policy="mixed_float16", overrides=[rule]), BATCH)


def test_several_inputs_in_a_dict_and_sample_weights():
    def builder():
        inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((2,), name="b")}
        x = L.Concatenate()([L.Dense(4)(inputs["a"]), inputs["b"]])
        return keras.Model(inputs, L.Dense(1)(x))

    model = build(builder, policy="mixed_float16")
    verify(model, ({"a": X, "b": np.zeros((4, 2), "float32")}, np.zeros(4), np.ones(4)))


def test_a_model_that_was_not_built_here():
    with pytest.raises(ValueError, match=r"mpt\.precision\.build"):
        verify(classifier(), BATCH)


def test_time_distributed_computes_its_layer_in_its_own_dtype():
    def builder():
        inputs = keras.Input((6, 8))
        x = keras.layers.TimeDistributed(keras.layers.Dense(4, name="inside"), name="each")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))

    batch = (np.ones((2, 6, 8), "float32"), np.zeros(2))
    rules = [{"match": "each/inside", "policy": "float32"}]
    with pytest.raises(ConfigurationError, match="in its own float16") as caught:
        verify(build(builder, policy="mixed_float16", overrides=rules), batch)
    assert "match:'each',policy:float32" in str(caught.value)
    rules[0]["match"] = "each"
    verify(build(builder, policy="mixed_float16", overrides=rules), batch)
