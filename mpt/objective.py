"""Loss and metrics: chosen from labels and outputs, or as given, and computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from mpt.data.pipeline import Data
from mpt.errors import ConfigurationError
from mpt.outputs import Output, fits, inputs_of, outputs_of

HIGHER_IS_BETTER = (
    "acc",
    "auc",
    "cosine_similarity",
    "dice",
    "examples_per_second",
    "f1",
    "fbeta",
    "iou",
    "precision",
    "r2",
    "recall",
    "sensitivity",
    "specificity",
    "top_k",
    "true_",
)
SMART_METRICS = ("accuracy", "acc", "crossentropy", "ce")
"""Names that Keras resolves by the shapes of labels and outputs."""

HALF = ("float16", "bfloat16")


def compile_model(
    model: keras.Model, optimizer: keras.Optimizer, *, loss: Any, metrics: Any, data: Data
) -> None:
    """Compile `model` with `optimizer`, a loss and metrics.

    `auto` takes, for each output: sparse cross-entropy and accuracy for integer labels, from
    logits or not as the output's activation says; binary cross-entropy for one unit or for several
    sigmoids; categorical cross-entropy where float labels meet a softmax of their shape; else mean
    squared and mean absolute error. Predictions in half precision reach losses and metrics as
    float32, and the logits of a softmax or sigmoid with them, so that Keras computes
    cross-entropies from the logits.

    Args:
        model: a model that its builder compiled keeps its own loss, loss weights and metrics.
        optimizer: replaces the builder's.
        loss: auto, a Keras name, a Loss, a function, or a list or dict of these by output.
        metrics: auto, or a list of Keras names, Metrics and functions, or a list or dict of such
            lists by output.
        data: what the model is to be trained on.

    Raises:
        ConfigurationError: an unknown name (with the nearest), labels that do not fit the outputs,
            or a loss or metrics given for a model that has its own.
    """
    if model.compiled:
        arguments = _own(model, loss, metrics)
        # The user's own `compile` has set what it sets; its signature is not ours to know.
        compile_ = keras.Model.compile.__get__(model)
    else:
        arguments = _resolved(model, loss, metrics, data)
        compile_ = model.compile
    compile_(
        optimizer=optimizer,
        **arguments,
        auto_scale_loss=False,
        jit_compile=False,
        run_eagerly=False,
    )
    _compute_in_float32(model)


def check_shapes(model: keras.Model, data: Data) -> None:
    """Refuse examples that the model's inputs cannot take.

    A model whose inputs are not declared (a subclass) is left to its first call.

    Raises:
        ConfigurationError: another number of inputs, or another shape.
    """
    declared = inputs_of(model)
    if declared is None:
        return
    given = data.element_spec[0]
    if isinstance(given, dict):
        missing = [name for name, _ in declared if name not in given]
        if missing:
            raise ConfigurationError(
                f"model {model.name!r} has an input {missing[0]!r}, the examples of {data.name} "
                f"are {', '.join(sorted(given))}",
                where="model",
                value=missing[0],
                allowed=sorted(given),
            )
        shapes = [tuple(given[name].shape) for name, _ in declared]
    else:
        shapes = [tuple(part.shape) for part in keras.tree.flatten(given)]
    if len(shapes) != len(declared):
        raise ConfigurationError(
            f"model {model.name!r} has {len(declared)} inputs, an example of {data.name} has "
            f"{len(shapes)} parts",
            where="model",
        )
    for (name, wanted), have in zip(declared, shapes, strict=True):
        if not (fits(have[1:], wanted[1:]) or _but_for_one(have[1:], wanted[1:])):
            raise ConfigurationError(
                f"model {model.name!r} takes {wanted[1:]} at its input {name!r}, the examples of "
                f"{data.name} have the shape {have[1:]}",
                where="model",
                remedy="set dataset.shape, where the dataset has it, or build the model for the "
                "shape that its function is given",
            )


def monitored(monitor: str, mode: str) -> str:
    """Whether a higher or a lower value of the tag `monitor` is better: "max" or "min".

    Args:
        monitor: a tag, as validation/accuracy.
        mode: auto, min or max; auto goes by the name.
    """
    if mode in ("min", "max"):
        return mode
    if mode != "auto":
        raise ConfigurationError(
            f"there is no mode {mode!r}",
            where="monitor_mode",
            value=mode,
            allowed=["auto", "min", "max"],
        )
    name = monitor.rsplit("/", 1)[-1].lower()
    if name.endswith("loss"):
        return "min"
    return "max" if any(word in name for word in HIGHER_IS_BETTER) else "min"


def _own(model: keras.Model, loss: Any, metrics: Any) -> dict[str, Any]:
    """The loss and metrics that the model's builder gave it."""
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
    return {
        "loss": own_loss._user_loss if own_loss else (None if loss == "auto" else loss),
        "loss_weights": own_loss._user_loss_weights if own_loss else None,
        "metrics": own_metrics._user_metrics if own_metrics else _given(metrics),
        "weighted_metrics": own_metrics._user_weighted_metrics if own_metrics else None,
    }


def _given(metrics: Any) -> Any:
    return None if metrics == "auto" else metrics


def _resolved(model: keras.Model, loss: Any, metrics: Any, data: Data) -> dict[str, Any]:
    structure, outputs = outputs_of(model, data.element_spec[0])
    labels = _labels(data.element_spec[1], structure, outputs)
    names = [output.name for output in outputs]

    def pack(flat: Sequence[Any]) -> Any:
        return flat[0] if structure is None else keras.tree.pack_sequence_as(structure, flat)

    if loss == "auto":
        loss = pack(
            [_loss(o, _kind(o, y, data.classes)) for o, y in zip(outputs, labels, strict=True)]
        )
    else:
        loss = _by_output(loss, outputs, names, "loss", _named_loss)
    if metrics == "auto":
        metrics = pack(
            [_metrics(o, y, data.classes) for o, y in zip(outputs, labels, strict=True)]
        )
    else:
        metrics = _checked_metrics(metrics, names)
    return {"loss": loss, "metrics": metrics}


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


def _kind(output: Output, label: Any, classes: int | None) -> str:
    """What is learned at `output`: sparse, binary, categorical or regression.

    Raises:
        ConfigurationError: the label does not fit the output.
    """
    out, y = output.shape, tuple(label.shape)[1:]
    units = out[-1] if out else 1
    if label.dtype.is_floating:
        if not (fits(y, out) or _but_for_one(y, out)):
            raise _misfit(output, y)
        softmax = units != 1 and output.activation() == "softmax"
        return "categorical" if softmax else "regression"
    if units == 1 and (fits(y, out) or fits(y, out[:-1])):
        if classes is not None and classes > 2:
            raise ConfigurationError(
                f"the output {output.name!r} has one unit, the labels are of {classes} classes",
                where="model",
                remedy=f"give the model {classes} outputs, or name a loss for a regression, "
                "as loss=mean_squared_error",
            )
        return "binary"
    if fits(y, out):
        activation = output.activation()
        if activation not in ("softmax", "sigmoid"):
            raise ConfigurationError(
                f"integer labels of shape {y} meet an output {output.name!r} of the same shape",
                where="loss",
                remedy="name the loss, as loss=mean_squared_error",
            )
        return "categorical" if activation == "softmax" else "binary"
    if not (fits(y, out[:-1]) or fits(y, (*out[:-1], 1))):
        raise _misfit(output, y)
    if classes is not None and units is not None and units < classes:
        raise ConfigurationError(
            f"the output {output.name!r} has {units} units, the labels are of {classes} classes",
            where="model",
            remedy=f"give the model {classes} outputs, or correct dataset.classes",
        )
    return "sparse"


def _misfit(output: Output, label: tuple[int | None, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"the output {output.name!r} has the shape {output.shape}, its labels {label}",
        where="model",
        remedy="change the model's output (model.outputs), or name a loss that takes both",
    )


def _loss(output: Output, kind: str) -> keras.losses.Loss:
    if kind == "regression":
        return _exact(keras.losses.MeanSquaredError, output)
    losses = {
        "sparse": keras.losses.SparseCategoricalCrossentropy,
        "categorical": keras.losses.CategoricalCrossentropy,
        "binary": keras.losses.BinaryCrossentropy,
    }
    return _exact(losses[kind], output, from_logits=_from_logits(output, kind))


def _from_logits(output: Output, kind: str) -> bool:
    return output.activation() != ("sigmoid" if kind == "binary" else "softmax")


def _exact(loss: Callable[..., keras.losses.Loss], output: Output, **arguments: Any) -> Any:
    """The loss, in float64 where the output is; Keras would cast it to float32."""
    if output.dtype == "float64":
        arguments["dtype"] = "float64"
    return loss(**arguments)


def _metrics(output: Output, label: Any, classes: int | None) -> list[Any]:
    """Metrics of one output; none where labels and output tell of no usual task."""
    try:
        kind = _kind(output, label, classes)
        logits = kind == "binary" and _from_logits(output, kind)
    except ConfigurationError:
        return []
    if kind == "regression":
        return ["mean_absolute_error"]
    if kind == "binary":
        threshold = 0.0 if logits else 0.5
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)]
    if kind == "categorical":
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def _by_output(
    value: Any, outputs: list[Output], names: list[str], key: str, resolve: Callable[..., Any]
) -> Any:
    """`value` with `resolve` applied to each entry and the output that it belongs to."""
    if isinstance(value, dict):
        _known(value, names, key)
        of = dict(zip(names, outputs, strict=True))
        return {name: resolve(each, of[name], f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        if len(value) != len(outputs):
            raise _wrong_number(key, len(value), names)
        return [
            resolve(each, output, f"{key}[{index}]")
            for index, (each, output) in enumerate(zip(value, outputs, strict=True))
        ]
    return resolve(value, outputs[0], key)


def _known(value: dict[str, Any], names: list[str], key: str) -> None:
    for name in value:
        if name not in names:
            raise ConfigurationError(
                f"the model has no output {name!r}", where=f"{key}.{name}", value=name,
                allowed=names,
            )


def _wrong_number(key: str, count: int, names: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{count} entries for {len(names)} outputs",
        where=key,
        remedy=f"give one for each of {', '.join(names)}",
    )


def _named_loss(loss: Any, output: Output, where: str) -> Any:
    """A Keras loss by its name; anything else as it is."""
    if not isinstance(loss, str) or loss.lower() in ("crossentropy", "ce"):
        return loss
    classes = {
        name.lower(): value
        for name, value in vars(keras.losses).items()
        if isinstance(value, type) and value is not keras.losses.Loss
    }
    try:
        found = keras.losses.get(loss)
        known = classes[getattr(found, "__name__", type(found).__name__).replace("_", "").lower()]
    except (ValueError, KeyError):
        raise ConfigurationError(
            f"Keras has no loss {loss!r}",
            where=where,
            value=loss,
            allowed=sorted(
                name
                for name, value in vars(keras.losses).items()
                if callable(value) and name not in ("Loss", "get", "serialize", "deserialize")
            ),
        ) from None
    arguments = {}
    if "crossentropy" in known.__name__.lower() and output.known_activation() == "linear":
        arguments["from_logits"] = True  # by default Keras takes them for probabilities
    return _exact(known, output, **arguments)


def _checked_metrics(metrics: Any, names: list[str]) -> Any:
    """`metrics`, where every name in it is one of Keras's or of the model's outputs."""
    if isinstance(metrics, dict):
        _known(metrics, names, "metrics")
    elif isinstance(metrics, list | tuple):
        if metrics and len(names) > 1 and len(metrics) != len(names):
            raise _wrong_number("metrics", len(metrics), names)
    elif metrics is not None:
        metrics = [metrics]
    for metric in keras.tree.flatten(metrics):
        if not isinstance(metric, str) or metric in SMART_METRICS:
            continue
        try:
            keras.metrics.get(metric)
        except ValueError:
            raise ConfigurationError(
                f"Keras has no metric {metric!r}",
                where="metrics",
                value=metric,
                allowed=sorted(
                    {name for name, value in vars(keras.metrics).items() if callable(value)}
                    - {"Metric", "get", "serialize", "deserialize"}
                    | set(SMART_METRICS)
                ),
            ) from None
    return metrics


def _but_for_one(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether the shapes are equal but for a last axis of 1, which Keras adds or drops."""
    return fits((*shape, 1), other) or fits(shape, (*other, 1))


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
