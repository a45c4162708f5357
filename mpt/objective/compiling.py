"""Compiling a model with a loss and metrics that compute in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.objective.automatic import kind_of, loss_of, metrics_of
from mpt.objective.names import by_output, checked_metrics, named_loss
from mpt.objective.outputs import Output, outputs_of
from mpt.objective.shapes import Examples
from mpt.objective.smoothing import smoothed
from mpt.objective.weights import Weights, weighted
from mpt.schema import HALF

CATEGORICAL = (
    "categorical_crossentropy",
    "CategoricalCrossentropy",
    keras.losses.categorical_crossentropy,
)


def compile_model(
    model: keras.Model,
    optimizer: keras.Optimizer,
    *,
    loss: Any,
    metrics: Any,
    data: Examples,
    loss_weights: Weights | None = None,
    label_smoothing: float = 0.0,
) -> None:
    """Compile `model` with `optimizer`, a loss and metrics.

    `auto` takes, for each output: sparse cross-entropy and accuracy for integer labels, from
    logits or not as the output's activation says; binary cross-entropy for one unit or for several
    sigmoids; categorical cross-entropy where float labels meet a softmax of their shape; else mean
    squared and mean absolute error. Where each pixel has a class, the mean intersection over union
    joins the accuracy. Of data that ignore some places by a weight of 0, losses are means over the
    others, and metrics take the weights, too. Predictions in half precision reach losses and
    metrics as float32, and the logits of a softmax or sigmoid with them, so that Keras computes
    cross-entropies from the logits.

    Args:
        model: a model that its builder compiled keeps its own loss, loss weights and metrics.
        optimizer: replaces the builder's.
        loss: auto, a Keras name, a Loss, a function, or a list or dict of these by output.
        metrics: auto, or a list of Keras names, Metrics and functions, or a list or dict of such
            lists by output.
        data: what the model is to be trained on.
        loss_weights: factors of the losses: a number for every output, a list or a dict of numbers
            by output, or None.
        label_smoothing: share of each label that cross-entropies spread over all classes, in
            training and in validation, as Keras's own do.

    Raises:
        ConfigurationError: an unknown name (with the nearest), labels that do not fit the outputs
            or cannot be smoothed, or a loss, weights or metrics given for a model that has its own.
    """
    if model.compiled:
        if label_smoothing:
            raise ConfigurationError(
                f"model {model.name!r} was compiled by its builder",
                where="label_smoothing",
                allowed=[0],
                remedy="smooth the labels in its loss, or do not compile the model there",
            )
        arguments = _own(model, loss, metrics, loss_weights, data)
        # The user's own `compile` has set what it sets; its signature is not ours to know.
        compile_ = keras.Model.compile.__get__(model)
    else:
        arguments = _resolved(model, loss, metrics, loss_weights, data)
        arguments["loss"] = smoothed(arguments["loss"], label_smoothing)
        compile_ = model.compile
    compile_(
        optimizer=optimizer,
        **arguments,
        auto_scale_loss=False,
        jit_compile=False,
        run_eagerly=False,
    )
    _compute_in_float32(model)


def _own(
    model: keras.Model, loss: Any, metrics: Any, weights: Any, data: Examples
) -> dict[str, Any]:
    """The loss, its weights and the metrics that the model's builder gave it."""
    _check_labels(model, data)
    own_loss = getattr(model, "_compile_loss", None)
    own_metrics = getattr(model, "_compile_metrics", None)
    for key, given, own in (("loss", loss, own_loss), ("metrics", metrics, own_metrics)):
        if given != "auto" and own is not None:
            raise ConfigurationError(
                f"model {model.name!r} was compiled by its builder with its own {key}",
                where=key,
                allowed=["auto"],
                remedy=f"set {key}=auto, or do not compile the model in its function",
            )
    if weights is not None and (own_loss is not None or loss == "auto"):
        has = "with its own loss" if own_loss is not None else "without a loss"
        raise ConfigurationError(
            f"model {model.name!r} was compiled by its builder {has}",
            where="loss_weights",
            allowed=["null"],
            remedy="weigh the loss in its function, or do not compile the model there",
        )
    return {
        "loss": own_loss._user_loss if own_loss else (None if loss == "auto" else loss),
        "loss_weights": own_loss._user_loss_weights if own_loss else weights,
        "metrics": own_metrics._user_metrics if own_metrics else _given(metrics),
        "weighted_metrics": own_metrics._user_weighted_metrics if own_metrics else None,
    }


def _check_labels(model: keras.Model, data: Examples) -> None:
    """Refuse integer labels for a builder's categorical cross-entropy, which takes shares."""
    loss = getattr(getattr(model, "_compile_loss", None), "_user_loss", None)
    label = data.element_spec[1]
    shape = getattr(label, "shape", None)
    if shape is None or not label.dtype.is_integer or tuple(shape[1:]) not in ((), (1,)):
        return
    own = any(  # which may make shares of the labels
        getattr(type(model), name) is not getattr(keras.Model, name)
        for name in ("train_step", "compute_loss")
    )
    if not own and (loss in CATEGORICAL or type(loss) is keras.losses.CategoricalCrossentropy):
        raise ConfigurationError(
            f"model {model.name!r} was compiled by its builder with categorical_crossentropy, and "
            "the labels are integers",
            where="loss",
            remedy="compile it with sparse_categorical_crossentropy, or leave compile() out there",
        )


def _given(metrics: Any) -> Any:
    return None if metrics == "auto" else metrics


def _resolved(
    model: keras.Model, loss: Any, metrics: Any, weights: Weights | None, data: Examples
) -> dict[str, Any]:
    structure, outputs = outputs_of(model, data.element_spec[0])
    labels = _labels(data.element_spec[1], structure, outputs)
    names = [output.name for output in outputs]

    def pack(flat: Sequence[Any]) -> Any:
        return flat[0] if structure is None else keras.tree.pack_sequence_as(structure, flat)

    # Keras's default divides by all places, those of no weight among them.
    arguments: dict[str, Any] = {}
    if data.ignores:
        arguments["reduction"] = "mean_with_sample_weight"
    if loss == "auto":
        loss = pack(
            [
                loss_of(o, kind_of(o, y, data.classes), **arguments)
                for o, y in zip(outputs, labels, strict=True)
            ]
        )
    else:
        loss = by_output(loss, outputs, names, "loss", partial(named_loss, **arguments))
    if weights is not None:
        loss, weights = weighted(loss, weights, names, pack)
    if metrics == "auto":
        metrics = pack(
            [metrics_of(o, y, data.classes) for o, y in zip(outputs, labels, strict=True)]
        )
    else:
        metrics = checked_metrics(metrics, names)
    which = "weighted_metrics" if data.ignores else "metrics"
    return {"loss": loss, "loss_weights": weights, which: metrics}


def _labels(spec: Any, structure: Any, outputs: list[Output]) -> list[Any]:
    """The label's spec for each output."""
    if isinstance(spec, dict):
        names = sorted(structure) if isinstance(structure, dict) else [o.name for o in outputs]
        missing = [name for name in names if name not in spec]
        if missing:
            raise ConfigurationError(
                f"the model's output {missing[0]!r} has no label",
                where="dataset",
                value=missing[0],
                allowed=sorted(spec),
            )
        return [spec[name] for name in names]
    flat = keras.tree.flatten(spec)
    if len(flat) != len(outputs):
        raise ConfigurationError(
            f"the model has {len(outputs)} outputs, an example has {len(flat)} labels",
            where="model",
            remedy="give one label for each output, in their order or by their names",
        )
    return flat


def _compute_in_float32(model: keras.Model) -> None:
    """Give losses and metrics float32 predictions, on this instance: the saved file stays plain."""
    loss = getattr(model, "_compile_loss", None)
    if loss is not None:
        computed = loss.call

        def call(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return computed(y_true, keras.tree.map_structure(_float32, y_pred), sample_weight)

        loss.call = call
    metrics = getattr(model, "_compile_metrics", None)
    if metrics is not None:
        updated = metrics.update_state

        def update_state(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return updated(y_true, keras.tree.map_structure(_float32, y_pred), sample_weight)

        metrics.update_state = update_state


def _float32(prediction: Any) -> Any:
    """`prediction` in float32 where it is in half precision, with what Keras hangs on tensors."""
    if keras.backend.standardize_dtype(prediction.dtype) not in HALF:
        return prediction
    single = keras.ops.cast(prediction, "float32")
    logits = getattr(prediction, "_keras_logits", None)
    if logits is not None:
        single._keras_logits = keras.ops.cast(logits, "float32")
    mask = getattr(prediction, "_keras_mask", None)
    if mask is not None:
        single._keras_mask = mask
    return single
