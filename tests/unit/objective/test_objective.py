"""Loss and metrics: what is chosen, what is kept, and in which precision they compute."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import objective
from mpt.errors import ConfigurationError

EXTREME = np.array([[30.0, -25.0, 0.0], [-12.0, 4.0, 28.0], [9.0, 9.5, -30.0]], np.float32)
TARGETS = np.array([1, 0, 2])
EXACT = np.mean([55.0, 40.0, 39.974])  # log-sum-exp less the label's logit, row by row


@dataclass
class Given:
    """Data as far as the objective looks at it."""

    element_spec: Any
    classes: int | None = None
    name: str = "given"
    ignores: bool = False


def spec(shape: tuple[int, ...], dtype: Any = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec((4, *shape), dtype)


def data(
    x: tuple[int, ...] = (3,),
    y: tuple[int, ...] = (),
    dtype: Any = tf.int32,
    classes: int | None = 3,
) -> Given:
    return Given((spec(x), spec(y, dtype)), classes if dtype == tf.int32 else None)


def dense(
    units: int = 3, activation: str | None = "softmax", shape: tuple[int, ...] = (3,), **kwargs: Any
) -> keras.Model:
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Dense(units, activation=activation, **kwargs)]
    )


def compile_(model: keras.Model, given: Given, **changes: Any) -> keras.Model:
    arguments = {"loss": "auto", "metrics": "auto", **changes}
    objective.compile_model(model, keras.optimizers.SGD(0.1), data=given, **arguments)
    return model


def filled(given: Given) -> Any:
    """A batch of zeros."""
    return tf.nest.map_structure(lambda each: tf.zeros(each.shape, each.dtype), given.element_spec)


def names(model: keras.Model, given: Given) -> list[str]:
    """Names of the metrics after a batch."""

    x, y = filled(given)
    return sorted(model.test_on_batch(x, y, return_dict=True))


@pytest.mark.parametrize(
    ("model", "given", "loss", "from_logits"),
    [
        (dense, data(), "SparseCategoricalCrossentropy", False),
        (lambda: dense(5), data(), "SparseCategoricalCrossentropy", False),
        (lambda: dense(activation=None), data(), "SparseCategoricalCrossentropy", True),
        (lambda: dense(1, "sigmoid"), data(classes=2), "BinaryCrossentropy", False),
        (lambda: dense(1, None), data(y=(1,), classes=2), "BinaryCrossentropy", True),
        (lambda: dense(3, "sigmoid"), data(y=(3,), classes=2), "BinaryCrossentropy", False),
        (dense, data(y=(3,), classes=2), "CategoricalCrossentropy", False),
        (dense, data(y=(3,), dtype=tf.float32), "CategoricalCrossentropy", False),
        (lambda: dense(1, None), data(dtype=tf.float32), "MeanSquaredError", None),
        (lambda: dense(2, None), data(y=(2,), dtype=tf.float32), "MeanSquaredError", None),
    ],
)
def test_automatic_loss(model: Any, given: Given, loss: str, from_logits: bool | None) -> None:
    compiled = compile_(model(), given)
    assert type(compiled.loss).__name__ == loss
    assert compiled.loss.get_config().get("from_logits") == from_logits
    metric = "mean_absolute_error" if loss == "MeanSquaredError" else "accuracy"
    assert names(compiled, given) == sorted([metric, "loss"])


def activation(last: list[keras.layers.Layer]) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), *last])


def nested() -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, dense()(x))


def with_operation() -> keras.Model:
    x = keras.Input((3,))
    return keras.Model(x, keras.ops.softmax(keras.layers.Dense(3)(x)))


class Subclassed(keras.Model):
    """Declares no output before it is called."""

    def __init__(self, activation: str | None) -> None:
        super().__init__()
        self.head = keras.layers.Dense(3, activation=activation)

    def call(self, x: Any) -> Any:
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "from_logits"),
    [
        (lambda: activation([keras.layers.Softmax()]), False),
        (lambda: activation([keras.layers.Activation("softmax")]), False),
        (lambda: activation([keras.layers.Softmax(), keras.layers.Reshape((3,))]), False),
        (lambda: activation([keras.layers.Activation("linear", dtype="float32")]), True),
        (lambda: activation([keras.layers.Dropout(0.1)]), True),
        (nested, False),
        (with_operation, False),
        (lambda: dense(activation=lambda x: keras.ops.softmax(x)), False),  # noqa: PLW0108
        (lambda: Subclassed("softmax"), False),
        (lambda: Subclassed(None), True),
    ],
)
def test_the_activation_is_found(model: Any, from_logits: bool) -> None:
    assert compile_(model(), data()).loss.get_config()["from_logits"] == from_logits


def test_segmentation() -> None:
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 1, activation="softmax")]
    )
    given = data((4, 4, 2), (4, 4))
    compile_(model, given)
    x = np.random.default_rng(0).random((4, 4, 4, 2), np.float32)
    y = np.random.default_rng(1).integers(0, 3, (4, 4, 4))
    expected = -np.log(np.take_along_axis(model.predict(x, verbose=0), y[..., None], -1)).mean()
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


PIXELS = np.random.default_rng(3)
PICTURES = PIXELS.random((4, 4, 4, 2), np.float32)
MASKS = PIXELS.integers(0, 3, (4, 4, 4))
COUNTS = (PIXELS.random((4, 4, 4)) < 0.6).astype(np.float32)


def overlap(labels: Any, predicted: Any, weights: Any = 1.0) -> float:
    """The mean over the classes of intersection over union, by its definition."""
    found = []
    for kind in range(3):
        one, other = labels == kind, predicted == kind
        both, either = (float((part * weights).sum()) for part in (one & other, one | other))
        if either:
            found.append(both / either)
    return float(np.mean(found))


def per_pixel(activation: str | None, units: int = 3) -> keras.Model:
    return keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(units, 1, activation=activation)]
    )


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("last", [(), (1,)])
def test_metrics_of_pixels(activation: str | None, last: tuple[int, ...]) -> None:
    model = compile_(per_pixel(activation), data((4, 4, 2), (4, 4, *last)))
    masks = MASKS.reshape(4, 4, 4, *last)
    found = model.test_on_batch(PICTURES, masks, return_dict=True)
    predicted = model.predict(PICTURES, verbose=0).argmax(-1)
    assert set(found) == {"loss", "accuracy", "mean_iou"}
    assert found["accuracy"] == pytest.approx((predicted == MASKS).mean())
    assert found["mean_iou"] == pytest.approx(overlap(MASKS, predicted))


def test_other_kinds_of_pixels() -> None:
    one_hot = np.eye(3, dtype=np.float32)[MASKS]
    model = compile_(per_pixel("softmax"), data((4, 4, 2), (4, 4, 3), tf.float32))
    found = model.test_on_batch(PICTURES, one_hot, return_dict=True)
    predicted = model.predict(PICTURES, verbose=0).argmax(-1)
    assert found["mean_iou"] == pytest.approx(overlap(MASKS, predicted))
    for activation in ("sigmoid", None):
        model = compile_(per_pixel(activation, 1), data((4, 4, 2), (4, 4), classes=2))
        found = model.test_on_batch(PICTURES, MASKS > 1, return_dict=True)
        limit = 0.5 if activation else 0.0
        predicted = model.predict(PICTURES, verbose=0)[..., 0] > limit
        assert found["mean_iou"] == pytest.approx(overlap(MASKS > 1, predicted))


@pytest.mark.parametrize("loss", ["auto", "sparse_categorical_crossentropy"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_pixels_count_for_nothing(loss: str, smoothing: float) -> None:
    given = data((4, 4, 2), (4, 4))
    given.element_spec = (*given.element_spec, spec((4, 4)))
    given.ignores = True
    model = compile_(per_pixel(None), given, loss=loss, label_smoothing=smoothing)
    found = model.test_on_batch(PICTURES, MASKS, COUNTS, return_dict=True)
    logits = model.predict(PICTURES, verbose=0).astype(np.float64)
    predicted, counted = logits.argmax(-1), COUNTS > 0
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(3)[MASKS] + smoothing / 3
    expected = -(target * logs).sum(-1)[counted].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["accuracy"] == pytest.approx((predicted == MASKS)[counted].mean())
    assert found["mean_iou"] == pytest.approx(overlap(MASKS, predicted, COUNTS))
    other = np.where(counted, MASKS, 0)
    assert model.test_on_batch(PICTURES, other, COUNTS, return_dict=True) == found
    nothing = model.test_on_batch(PICTURES, MASKS, 0 * COUNTS, return_dict=True)
    assert nothing["loss"] == 0, "a batch of nothing but ignored pixels is no NaN"


def test_tokens_have_no_overlap() -> None:
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Dense(3)])
    given = data((5, 2), (5,))
    assert names(compile_(model, given), given) == ["accuracy", "loss"]


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("graph", [True, False])
def test_extreme_logits_in_half_precision_give_the_right_loss(policy: str, graph: bool) -> None:
    """Even a half-precision softmax, whose probabilities are clipped at 1e-7 without its logits."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Softmax(dtype=policy.removeprefix("mixed_"))]
    )
    compile_(model, data())

    def loss(x: Any) -> Any:
        return model.compute_loss(x, TARGETS, model(x))

    value = tf.function(loss)(tf.constant(EXTREME)) if graph else loss(tf.constant(EXTREME))
    assert float(value) == pytest.approx(EXACT, rel=1e-3)


def test_gradients_of_extreme_logits_reach_a_half_precision_head() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Softmax(dtype="float16")])
    compile_(model, data())
    x = tf.constant(EXTREME)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = model.compute_loss(x, TARGETS, model(x))
    exact = (tf.nn.softmax(EXTREME) - tf.one_hot(TARGETS, 3)) / 3
    np.testing.assert_allclose(tape.gradient(loss, x), exact, atol=2e-4)


def squared(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y_pred - y_true), axis=-1)


@pytest.mark.parametrize("loss", ["auto", "mse", "mean_squared_error", "MeanSquaredError", squared])
def test_a_loss_of_float16_predictions_does_not_overflow(loss: Any) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Identity(dtype="float16")])
    given = data((1,), (1,), tf.float32)
    compile_(model, given, loss=loss, metrics=["mse", squared, keras.metrics.MeanSquaredError()])
    logs = model.test_on_batch(
        np.full((4, 1), 300, np.float32), np.zeros((4, 1), np.float32), return_dict=True
    )
    assert set(logs.values()) == {90000.0}


class Seen(keras.metrics.Metric):
    """Remembers the dtype that it was given."""

    def __init__(self) -> None:
        super().__init__(name="seen")
        self.dtypes: list[str] = []
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.dtypes.append(keras.backend.standardize_dtype(y_pred.dtype))

    def result(self) -> Any:
        return self.total


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_custom_metrics_receive_single_precision_or_better(policy: str, dtype: str) -> None:
    seen = Seen()
    model = compile_(dense(dtype=policy), data(), metrics=[seen])
    names(model, data())
    assert set(seen.dtypes) == {dtype}


def test_a_float64_model_has_its_loss_in_float64() -> None:
    assert compile_(dense(dtype="float64"), data()).loss.dtype == "float64"
    assert compile_(dense(dtype="float64"), data(), loss="mse").loss.dtype == "float64"


def two_outputs(as_dict: bool) -> keras.Model:
    x = keras.Input((3,))
    label = keras.layers.Dense(3, activation="softmax", name="label")(x)
    size = keras.layers.Dense(1, name="size")(x)
    return keras.Model(x, {"label": label, "size": size} if as_dict else [label, size])


LABELS = {"label": spec((), tf.int32), "size": spec((1,))}


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"label": "sparse_categorical_crossentropy", "size": "mse"}},
        {"metrics": {"label": ["accuracy"], "size": ["mean_absolute_error"]}},
    ],
)
def test_several_outputs(as_dict: bool, changes: dict[str, Any]) -> None:
    given = Given((spec((3,)), LABELS))
    model = compile_(two_outputs(as_dict), given, **changes)
    found = names(model, given)
    assert {"label_accuracy", "size_mean_absolute_error"} <= set(found)
    model.train_on_batch(*filled(given))


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize(
    ("weights", "by_hand"),
    [
        ({"label": 0.5, "size": 3}, (0.5, 3.0)),
        ([0.25, 2.0], (0.25, 2.0)),
        (0.125, (0.125, 0.125)),
        (2.0**-17, (2.0**-17, 2.0**-17)),
    ],
)
@pytest.mark.parametrize(
    "loss",
    ["auto", {"label": "sparse_categorical_crossentropy", "size": "mse"}],
)
def test_loss_weights_by_output(as_dict: bool, weights: Any, by_hand: Any, loss: Any) -> None:
    given = Given((spec((3,)), LABELS))
    model = compile_(two_outputs(as_dict), given, loss=loss, loss_weights=weights)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    y = {"label": np.array([0, 1, 2, 0]), "size": np.full((4, 1), 2.0, "float32")}
    found = model.test_on_batch(x, y, return_dict=True)
    predicted = model.predict_on_batch(x)
    label, size = (predicted["label"], predicted["size"]) if as_dict else predicted
    entropy = -np.log(label[np.arange(4), y["label"]]).mean()
    error = np.square(size - 2.0).mean()
    expected = by_hand[0] * entropy + by_hand[1] * error
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [[0.5, 2.0], {"label": 0.5, "size": 2.0}, 0.5])
def test_one_loss_with_weights_for_several_outputs(weights: Any) -> None:
    given = Given((spec((3,)), {"label": spec((3,)), "size": spec((1,))}))
    model = compile_(two_outputs(True), given, loss="mse", metrics=[], loss_weights=weights)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    y = {"label": np.ones((4, 3), "float32"), "size": np.full((4, 1), 2.0, "float32")}
    predicted = model.predict_on_batch(x)
    errors = [np.square(predicted[name] - y[name]).mean() for name in ("label", "size")]
    factors = (0.5, 0.5) if weights == 0.5 else (0.5, 2.0)
    expected = sum(factor * error for factor, error in zip(factors, errors, strict=True))
    found = model.test_on_batch(x, y, return_dict=True)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [0.25, 2, [0.25], {"output_0": 0.25}])
def test_a_weight_for_the_only_output(weights: Any) -> None:
    model = compile_(dense(), data(), loss_weights=weights)
    x, y = np.ones((4, 3), "float32"), np.zeros(4, int)
    entropy = -np.log(model.predict_on_batch(x)[:, 0]).mean()
    expected = entropy * (2 if weights == 2 else 0.25)
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


def test_loss_weights_may_leave_an_output_without_a_loss() -> None:
    given = Given((spec((3,)), LABELS))
    model = compile_(
        two_outputs(True), given, loss={"size": "mse"}, metrics=[], loss_weights=[1.0, 4.0]
    )
    x, y = filled(given)
    y = {**y, "size": tf.ones_like(y["size"])}
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(4.0)


@pytest.mark.parametrize(("own", "said"), [("mae", "its own loss"), (None, "without a loss")])
def test_a_model_compiled_by_its_builder_keeps_its_own_weights(own: Any, said: str) -> None:
    model = dense(1, None)
    model.compile("sgd", own)
    with pytest.raises(ConfigurationError, match=said) as raised:
        compile_(model, data(y=(1,), dtype=tf.float32), loss_weights=0.5)
    assert raised.value.where == "loss_weights"


def test_a_loss_given_to_a_compiled_model_takes_weights() -> None:
    model = dense(1, None)
    model.compile("sgd")
    given = data(y=(1,), dtype=tf.float32)
    compile_(model, given, loss="mse", loss_weights=0.5)
    x, y = np.zeros((4, 3), "float32"), np.ones((4, 1), "float32")
    assert model.test_on_batch(x, y, return_dict=True)["loss"] == pytest.approx(0.5)


def test_lists_by_output() -> None:
    given = Given((spec((3,)), tuple(LABELS.values())))
    model = compile_(
        two_outputs(False),
        given,
        loss=["sparse_categorical_crossentropy", "mae"],
        metrics=[["accuracy"], ["mse"]],
    )
    assert "size_mse" in names(model, given)


def test_a_compiled_model_keeps_its_loss_weights_and_metrics() -> None:
    model = two_outputs(True)
    model.compile(
        "rmsprop",
        loss={"label": "sparse_categorical_crossentropy", "size": "mae"},
        loss_weights={"label": 0.25, "size": 4.0},
        metrics={"size": ["mse"]},
        weighted_metrics={"label": ["accuracy"]},
    )
    given = Given((spec((3,)), LABELS))
    x = np.ones((4, 3), np.float32)
    y = {"label": np.zeros(4, int), "size": np.full((4, 1), 9.0)}
    before = model.test_on_batch(x, y, return_dict=True)
    optimizer = keras.optimizers.SGD(0.1)
    objective.compile_model(model, optimizer, loss="auto", metrics="auto", data=given)
    model.reset_metrics()
    after = model.test_on_batch(x, y, return_dict=True)
    assert model.optimizer is optimizer
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-6)


class OwnCompile(keras.Model):
    """Its compile takes what Keras does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(1)
        self.factor = 0.0

    def compile(self, factor: float, loss: Any) -> None:
        super().compile(optimizer="sgd", loss=loss)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return self.factor * self.head(x)


def test_a_model_with_its_own_compile_is_not_asked_again() -> None:
    model = OwnCompile()
    model.compile(2.0, "mae")
    compile_(model, data(y=(1,), dtype=tf.float32))
    assert (model.factor, model.loss) == (2.0, "mae")


def test_a_model_compiled_without_a_loss_stays_without() -> None:
    model = dense()
    model.compile("sgd")
    compile_(model, data())
    assert model._compile_loss is None
    model = dense()
    model.compile("sgd")
    compile_(model, data(), loss="mse", metrics=["mae"])
    assert "mae" in names(model, data(y=(3,), dtype=tf.float32))


def test_keras_is_told_to_leave_loss_scale_and_xla_alone() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = compile_(dense(), data())
    assert type(model.optimizer) is keras.optimizers.SGD
    assert model.jit_compile is False
    assert model.run_eagerly is False


def test_the_saved_file_needs_no_code_of_ours(tmp_path: Any) -> None:
    model = compile_(dense(), data())
    names(model, data())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded.loss) is keras.losses.SparseCategoricalCrossentropy
    config = loaded.get_compile_config()
    assert "mpt" not in str(config)


def test_named_crossentropy_of_logits() -> None:
    loss = compile_(dense(activation=None), data(), loss="sparse_categorical_crossentropy").loss
    assert loss.get_config()["from_logits"] is True
    loss = compile_(dense(), data(), loss="sparse_categorical_crossentropy").loss
    assert loss.get_config()["from_logits"] is False


def test_every_named_loss_of_keras_is_known() -> None:
    functions = [
        name
        for name, value in vars(keras.losses).items()
        if callable(value) and name not in ("Loss", "get", "serialize", "deserialize")
    ]
    assert len(functions) > 30
    for name in [*functions, "mse", "MAE", "bce", "kld"]:
        assert isinstance(compile_(dense(), data(), loss=name).loss, keras.losses.Loss), name


def test_an_unusual_loss_goes_without_automatic_metrics() -> None:
    given = data(y=(7,), dtype=tf.float32)
    model = compile_(dense(), given, loss=lambda y, p: keras.ops.mean(p, axis=-1))
    assert names(model, given) == ["loss"]


@pytest.mark.parametrize(
    ("model", "given", "changes", "message", "where", "suggestion"),
    [
        (dense, data(), {"loss": "mean_sqared_error"}, "no loss", "loss", "mean_squared_error"),
        (
            dense,
            data(),
            {"loss": "sparse_categorical_crosentropy"},
            "no loss",
            "loss",
            "sparse_categorical_crossentropy",
        ),
        (dense, data(), {"metrics": ["acuracy"]}, "no metric", "metrics", "accuracy"),
        (dense, data(), {"loss": ["mse", "mse"]}, "2 entries for 1 outputs", "loss", None),
        (dense, data(), {"loss": {"hed": "mse"}}, "no output", "loss.hed", None),
        (dense, data(), {"loss_weights": [1.0, 2.0]}, "2 entries", "loss_weights", None),
        (
            lambda: two_outputs(True),
            Given((spec((3,)), LABELS)),
            {"loss_weights": {"lable": 1.0, "size": 1.0}},
            "no output 'lable'",
            "loss_weights.lable",
            "label",
        ),
        (
            lambda: two_outputs(True),
            Given((spec((3,)), LABELS)),
            {"loss_weights": {"label": 1.0}},
            "'size' has no weight",
            "loss_weights",
            None,
        ),
        (
            lambda: two_outputs(True),
            Given((spec((3,)), LABELS)),
            {"metrics": {"lable": ["mse"]}},
            "no output 'lable'",
            "metrics.lable",
            "label",
        ),
        (
            lambda: two_outputs(False),
            Given((spec((3,)), LABELS)),
            {"metrics": ["mse"]},
            "1 entries for 2 outputs",
            "metrics",
            None,
        ),
        (
            lambda: two_outputs(True),
            Given((spec((3,)), {"label": spec((), tf.int32)})),
            {},
            "'size' has no label",
            "dataset",
            None,
        ),
        (lambda: two_outputs(False), data(), {}, "2 outputs, an example has 1", "model", None),
        (dense, data(classes=10), {}, "3 units, the labels are of 10", "model", None),
        (
            lambda: dense(1, None),
            data(classes=10),
            {},
            "one unit, the labels are of 10",
            "model",
            None,
        ),
        (dense, data(y=(7,)), {}, "shape .3,., its labels .7,", "model", None),
        (dense, data(y=(7,), dtype=tf.float32), {}, "its labels .7,", "model", None),
        (lambda: dense(2, None), data(y=(2,)), {}, "integer labels of shape", "loss", None),
        (
            lambda: activation([keras.layers.Dense(1, activation=lambda x: x)]),
            data(classes=2),
            {},
            "does not say whether",
            "loss",
            None,
        ),
        (lambda: Subclassed(None), data((4, 4)), {"loss": "auto"}, "shape .4, 3.", "model", None),
    ],
)
def test_refused(
    model: Any, given: Given, changes: dict[str, Any], message: str, where: str, suggestion: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        compile_(model(), given, **changes)
    assert caught.value.where == where
    if suggestion:
        assert caught.value.suggestion == suggestion


@pytest.mark.parametrize("key", ["loss", "metrics"])
def test_a_compiled_models_loss_and_metrics_cannot_be_given(key: str) -> None:
    model = dense()
    model.compile("sgd", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    with pytest.raises(ConfigurationError, match=f"its own {key}") as caught:
        compile_(model, data(), **{key: "mse" if key == "loss" else ["mse"]})
    assert caught.value.where == key


def two_inputs() -> keras.Model:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    return keras.Model([a, b], keras.layers.Concatenate()([a, b]))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (dense, spec((3,))),
        (lambda: dense(shape=(None, 3)), spec((7, 3))),
        (lambda: dense(shape=(4, 4, 1)), spec((4, 4))),
        (two_inputs, {"a": spec((3,)), "b": spec((2,))}),
        (two_inputs, (spec((3,)), spec((2,)))),
        (lambda: Subclassed(None), spec((9,))),
    ],
)
def test_shapes_that_fit(model: Any, x: Any) -> None:
    objective.check_shapes(model(), Given((x, spec(()))))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (dense, spec((4,)), r"takes \(3,\) at its input .* have the shape \(4,\)"),
        (dense, spec((3, 3)), r"have the shape \(3, 3\)"),
        (two_inputs, spec((3,)), "2 inputs, an example of given has 1"),
        (two_inputs, {"a": spec((3,)), "c": spec((2,))}, "an input 'b', the examples of given are"),
        (two_inputs, (spec((2,)), spec((3,))), r"takes \(3,\) at its input 'a'"),
    ],
)
def test_shapes_that_do_not_fit(model: Any, x: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        objective.check_shapes(model(), Given((x, spec(()))))
    assert caught.value.where == "model"


@pytest.mark.parametrize(
    ("tag", "mode", "expected"),
    [
        ("validation/accuracy", "auto", "max"),
        ("validation/label_accuracy", "auto", "max"),
        ("validation/auc", "auto", "max"),
        ("validation/mean_io_u", "auto", "max"),
        ("validation/binary_io_u", "auto", "max"),
        ("validation/loss", "auto", "min"),
        ("validation/dice_loss", "auto", "min"),
        ("validation/mean_absolute_error", "auto", "min"),
        ("validation/loss", "max", "max"),
        ("validation/accuracy", "min", "min"),
    ],
)
def test_monitored(tag: str, mode: str, expected: str) -> None:
    assert objective.monitored(tag, mode) == expected


class Confidence(keras.metrics.Mean):
    """Keras's mean has no direction."""


@pytest.mark.parametrize(
    ("tag", "metrics", "expected"),
    [
        ("validation/fit", [keras.metrics.R2Score(name="fit")], "max"),
        ("train/head_far", [keras.metrics.MeanSquaredError(name="far")], "min"),
        ("validation/far", [keras.metrics.R2Score(name="r"), Confidence("far")], None),
        ("validation/confidence", [], None),
        ("validation/false_positives", [], "min"),
    ],
)
def test_monitored_metrics_whose_name_says_nothing(
    tag: str, metrics: list[keras.Metric], expected: str | None
) -> None:
    if expected is not None:
        assert objective.monitored(tag, "auto", metrics) == expected
        return
    with pytest.raises(ConfigurationError, match=f"a lower {tag} is better is not known") as caught:
        objective.monitored(tag, "auto", metrics)
    assert (caught.value.where, caught.value.allowed) == ("monitor_mode", ["max", "min"])
    assert objective.monitored(tag, "max", metrics) == "max"


def test_the_direction_of_a_compiled_metric() -> None:
    def sure(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.max(y_pred, axis=-1)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=[keras.metrics.R2Score(name="fit"), sure])
    model._symbolic_build(data_batch=(np.zeros((4, 3)), np.zeros((4, 1))))
    assert objective.monitored("validation/fit", "auto", model.metrics) == "max"
    with pytest.raises(ConfigurationError):
        objective.monitored("validation/sure", "auto", model.metrics)


def test_monitored_in_no_such_mode() -> None:
    with pytest.raises(ConfigurationError, match="no mode 'mx'"):
        objective.monitored("validation/loss", "mx")


@pytest.mark.parametrize(
    "own",
    [
        "categorical_crossentropy",
        keras.losses.categorical_crossentropy,
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ],
)
@pytest.mark.parametrize("loss", ["auto", "sparse_categorical_crossentropy"])
def test_shares_asked_of_integer_labels_by_the_builder(own: Any, loss: str) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(loss=own)
    with pytest.raises(ConfigurationError, match="with categorical_crossentropy, and the") as error:
        objective.compile_model(
            model, keras.optimizers.SGD(), loss=loss, metrics="auto", data=data()
        )
    assert "compile it with sparse_categorical_crossentropy" in str(error.value.remedy)
    shares = data(y=(3,), dtype=tf.float32)
    objective.compile_model(model, keras.optimizers.SGD(), loss="auto", metrics="auto", data=shares)
    assert model.loss == own


def test_a_compute_loss_of_its_own_may_make_shares_of_integer_labels() -> None:
    class OneHot(keras.Sequential):
        def compute_loss(self, x=None, y=None, **arguments):  # type: ignore[no-untyped-def]
            return super().compute_loss(x=x, y=keras.ops.one_hot(y, 3), **arguments)

    model = OneHot([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(loss="categorical_crossentropy")
    objective.compile_model(model, keras.optimizers.SGD(), loss="auto", metrics="auto", data=data())
    assert model.loss == "categorical_crossentropy"
