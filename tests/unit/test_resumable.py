"""What a checkpoint holds of variables and generators, and what becomes of it."""

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt.checkpoint import read, write
from mpt.resumable import RandomNumbers, Variables
from mpt.variables import changed_by_a_step, parts


@pytest.fixture
def stored(tmp_path):
    """`stored(state)` is what a checkpoint gives back of it."""

    def call(state):
        write(tmp_path / "x.ckpt", {"state": state})
        return read(tmp_path / "x.ckpt")["state"]

    return call


class TestRandomNumbers:
    def drawn(self):
        """Some of what each generator gives next."""
        return (
            [random.random(), random.gauss(0, 1)],
            np.random.normal(size=3).tolist(),
            tf.random.get_global_generator().normal([3]).numpy().tolist(),
            keras.random.normal([3]).numpy().tolist(),
        )

    def test_all_generators_go_on_where_they_were(self, stored):
        keras.utils.set_random_seed(5)
        generators = RandomNumbers()
        self.drawn()  # a second of each pair of normal numbers is kept for later
        state = stored(generators.state())
        expected = self.drawn()
        keras.utils.set_random_seed(6)
        again = RandomNumbers()
        self.drawn()
        again.restore(state)
        assert self.drawn() == expected

    def test_to_keep_them_draws_nothing(self):
        keras.utils.set_random_seed(5)
        generators = RandomNumbers()
        first = json.dumps([str(value) for value in generators.state().values()])
        assert json.dumps([str(value) for value in generators.state().values()]) == first


class TestVariables:
    @staticmethod
    def model(units=3, dtype="float32"):
        keras.utils.set_random_seed(1)
        layers = [
            keras.Input((4,)),
            keras.layers.Dense(units, dtype=dtype),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(2),
        ]
        model = keras.Sequential(layers)
        optimizer = keras.optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2)
        model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=True)  # to trace takes longer
        return model

    @staticmethod
    def train(model, steps):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
        model.optimizer.build(model.trainable_variables)
        for _ in range(steps):
            model.train_on_batch(x, y)

    @staticmethod
    def everything(model):
        found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
        return [np.asarray(v.value).tobytes() for v in found]

    def test_a_model_goes_on_to_the_bit(self, stored):
        unbroken, before, now = self.model(), self.model(), self.model()
        self.train(unbroken, 5)
        self.train(before, 2)
        state = stored(Variables(before).state())
        self.train(now, 1)
        assert self.everything(now) != self.everything(before)
        Variables(now).restore(state)
        assert self.everything(now) == self.everything(before)
        self.train(now, 3)
        assert self.everything(now) == self.everything(unbroken)

    def test_seeds_slots_averages_and_metrics_are_in_it(self):
        model = self.model()
        self.train(model, 1)
        paths = " ".join(Variables(model).state()["paths"])
        for word in ("seed_generator_state", "moving_variance", "momentum", "velocity", "average"):
            assert word in paths
        assert "accumulator" in paths
        counts = [v.path for v in model.metrics_variables]
        assert counts
        assert set(counts) <= set(Variables(model).state()["paths"])

    def test_a_state_of_another_shape_or_dtype_changes_nothing(self, stored):
        now = self.model()
        self.train(now, 1)
        before = self.everything(now)
        for other in (self.model(units=4), self.model(dtype="float64")):
            self.train(other, 1)
            with pytest.raises(ValueError, match=r"kernel|bias"):
                Variables(now).restore(stored(Variables(other).state()))
        smaller = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        smaller.compile("sgd", "mse")
        smaller.optimizer.build(smaller.trainable_variables)
        with pytest.raises(ValueError, match="variables"):
            Variables(now).restore(stored(Variables(smaller).state()))
        assert self.everything(now) == before

    def test_weights_under_their_average_are_kept_as_training_left_them(self, stored):
        model = self.model()
        self.train(model, 4)
        own = [v.numpy().copy() for v in model.trainable_variables]
        variables = Variables(model)
        variables.keep_raw()
        model.optimizer.finalize_variable_values(model.trainable_variables)
        averaged = [v.numpy() for v in model.trainable_variables]
        assert any((a != b).any() for a, b in zip(own, averaged, strict=True))
        state = stored(variables.state())
        variables.restore(state)
        for variable, value in zip(model.trainable_variables, own, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        # From now on they are what they are.
        model.trainable_variables[0].assign(averaged[0])
        np.testing.assert_array_equal(variables.state()["values"][0], averaged[0])

    def test_what_a_users_model_holds_besides_keras_lists_goes_on_too(self, stored):
        unbroken, before, now = Adversaries.ready(), Adversaries.ready(), Adversaries.ready()
        for model, steps in ((unbroken, 4), (before, 2), (now, 1)):
            self.train(model, steps)
        assert now.everything() != before.everything()
        Variables(now).restore(stored(Variables(before).state()))
        assert now.everything() == before.everything()
        self.train(now, 2)
        assert now.everything() == unbroken.everything()

    def test_a_further_optimizer_that_the_first_trace_builds_is_in_it(self, stored):
        now, before = Adversaries.ready(), Adversaries.ready()
        self.train(before, 1)
        batch = (tf.zeros((8, 4)), tf.zeros((8, 2)))
        tf.function(now.train_step).get_concrete_function(batch)  # as a run does before it resumes
        Variables(now).restore(stored(Variables(before).state()))
        assert now.everything() == before.everything()

    def test_each_value_is_in_it_once(self):
        model = Adversaries.ready()
        self.train(model, 1)
        model.again = model.inner.momentum
        model.bare = model.dense.kernel.value
        found = [id(part) for part in parts(changed_by_a_step(model))]
        assert len(found) == len(set(found))

    def test_what_holds_no_numbers_is_not_in_it(self, stored):
        model = Adversaries.ready()
        self.train(model, 1)
        model.words = tf.Variable(["a", "b"])
        stored(Variables(model).state())

    @pytest.mark.parametrize("names", [("left", "right"), ("left_2", "right_7")])
    def test_two_variables_of_one_shape_that_changed_places_are_refused(self, stored, names):
        def built(*names):
            layers = [keras.layers.Dense(4, name=name) for name in names]
            model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])
            model.compile(keras.optimizers.Adam(), "mse", run_eagerly=True)
            self.train(model, 1)
            return model

        now = built(*names)
        swapped = stored(Variables(built(*reversed(names))).state())
        before = self.everything(now)
        with pytest.raises(ValueError, match="left"):
            Variables(now).restore(swapped)
        assert self.everything(now) == before
        Variables(now).restore(stored(Variables(built(*names)).state()))
        # Renamed is not swapped.
        Variables(now).restore(stored(Variables(built("one", "two")).state()))

    def test_names_that_keras_counts_up_are_no_others(self, stored):
        def built():
            layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(4)]
            model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])
            model.compile(keras.optimizers.Adam(), "mse", run_eagerly=True)
            self.train(model, 1)
            return model

        first, second = built(), built()
        state = stored(Variables(first).state())
        assert state["paths"] != Variables(second).state()["paths"]
        Variables(second).restore(state)


class Counting(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.momentum = tf.Variable(0.0, trainable=False)
        self.tables = {"seen": tf.Variable(0, dtype=tf.int64, trainable=False)}

    def call(self, inputs):
        self.momentum.assign(0.9 * self.momentum + tf.reduce_mean(inputs))
        self.tables["seen"].assign_add(1)
        return inputs + tf.cast(self.momentum, inputs.dtype)


class Adversaries(keras.Model):
    """A step with two optimizers, noise of TensorFlow's and counters that Keras does not list."""

    def __init__(self):
        super().__init__()
        self.inner = Counting()
        self.dense = keras.layers.Dense(2)
        self.noise = tf.random.Generator.from_seed(3)
        self.second = keras.optimizers.Adam(0.05)
        self.more = [keras.optimizers.SGD(0.01, momentum=0.9)]

    @classmethod
    def ready(cls):
        keras.utils.set_random_seed(1)
        model = cls()
        model(tf.zeros((1, 4)))
        model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
        model.optimizer.build(model.trainable_variables)
        return model

    def call(self, inputs):
        return self.dense(self.inner(inputs))

    def train_step(self, data):
        x, y = data[:2]
        for optimizer in (self.optimizer, self.second, *self.more):
            with tf.GradientTape() as tape:
                noisy = x + self.noise.normal(tf.shape(x))
                loss = tf.reduce_mean((self(noisy, training=True) - y) ** 2)
            weights = self.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}

    def everything(self):
        kept = [self.inner.momentum, self.inner.tables["seen"], self.noise.state]
        slots = [v for o in (self.optimizer, self.second, *self.more) for v in o.variables]
        slots += self.weights
        return [v.numpy().tobytes() for v in kept] + [v.value.numpy().tobytes() for v in slots]
