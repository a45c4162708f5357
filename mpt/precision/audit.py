"""A dry run that says whether every layer computes as it was asked to, before training starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.precision import trace as tracing
from mpt.precision.layers import (
    has_float_policy,
    is_container,
    is_functional,
    join_policy,
    keras_class,
    own_variables,
    policy_name,
    refreeze,
    walk,
)
from mpt.precision.plan import Plan, plan_of, resolve
from mpt.precision.policy import check_float8, convert, refine
from mpt.rule_text import as_override, float32_rule, naming

_FLOAT16_MAX = 65504.0


def verify(model: keras.Model, batch: Any) -> None:
    """Build what is not built yet, complete the policies, and compare each dtype with the plan.

    Args:
        model: that `build` made, or `apply_table` has seen.
        batch: one training batch: (inputs, targets) or (inputs, targets, weights).

    Raises:
        ConfigurationError: a layer's dtype is not as asked, a rule matches nothing, the model
            does not compute under its policies, an input overflows float16, or a Normalization
            layer froze statistics that did.
    """
    plan = plan_of(model)
    if keras.config.dtype_policy().name != plan.policy:
        # clear_session() in a data function, say: layers made at the first call need it again.
        keras.config.set_dtype_policy(plan.policy)
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    traced = _dry_run(model, plan, inputs)
    for path, layer in walk(model):
        if has_float_policy(layer) and layer in plan.asked:
            _check_layer(path, layer, plan)
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            _check_normalization(path, layer)
        if isinstance(layer, keras.layers.TimeDistributed):
            _check_time_distributed(path, layer, [each for each, _ in walk(model)])
    if traced is not None:
        _check_outputs(traced, plan, {id(layer): path for path, layer in walk(model)})
        _check_inputs(traced, inputs, {id(layer): path for path, layer in walk(model)})
        convert(model, plan, traced)
    check_float8(model, plan)


def _dry_run(model: keras.Model, plan: Plan, inputs: Any) -> tracing.Trace | None:
    """The trace of the whole model, or None for one that has only a `train_step`."""
    try:
        if not is_functional(model):
            one = keras.tree.map_structure(lambda x: tf.convert_to_tensor(x[:1]), inputs)
            _call_first(model, one)
        return refine(model, plan, tracing.specs(inputs))
    except NotImplementedError:
        resolve(model, plan, final=True)
        return None
    except ConfigurationError:
        raise
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ConfigurationError(
            f"The model does not compute under the policy {plan.policy}: {_reason(error)}",
            where="precision.policy",
            remedy="operations between layers get what the layers give: cast there, or put the "
            "layers under another policy by precision.overrides",
        ) from error


def _call_first(model: keras.Model, inputs: Any) -> None:
    """Call a model that may not be built yet.

    Keras builds the layers of such a model in a scratch graph, and a Normalization layer with a
    given mean keeps tensors of that graph: the call then fails, in plain Keras too.
    """
    arguments = {"training": False} if model._call_has_training_arg else {}
    try:
        model(inputs, **arguments)
    except TypeError:
        stale = [
            layer
            for _, layer in walk(model)
            if isinstance(layer, keras.layers.Normalization)
            and layer.built
            and not hasattr(layer.mean, "numpy")
        ]
        if not stale:
            raise
        for layer in stale:
            refreeze(layer)
        model(inputs, **arguments)


def _reason(error: Exception) -> str:
    """The line of Keras's or TensorFlow's message that says what is wrong."""
    lines = [re.sub(r"\x1b\[\d+m", "", line).strip() for line in str(error).splitlines()]
    lines = [
        line
        for line in lines
        if line and not line.startswith(("Exception encountered", "in user code"))
    ]
    return lines[0] if lines else type(error).__name__


def _check_layer(path: str, layer: keras.layers.Layer, plan: Plan) -> None:
    asked, source = plan.asked[layer]
    found = plan.present(layer)
    if found != asked:
        raise _wrong(path, f"is under {found}", asked, source)
    if layer.quantization_mode is not None or not _is_keras(layer):
        return
    variable_dtype = keras.DTypePolicy(asked).variable_dtype
    for variable in own_variables(layer):
        dtype = variable._dtype
        if dtype != variable_dtype and keras.backend.is_float_dtype(dtype):
            raise _wrong(path, f"keeps {variable.name} in {dtype}", asked, source)


def _check_outputs(traced: tracing.Trace, plan: Plan, paths: dict[int, str]) -> None:
    """Whether the layers of Keras that were singled out give what they compute in."""
    for call in traced.calls:
        asked, source = plan.asked.get(call.layer, ("", ""))
        single = not call.layer._layers and _is_keras(call.layer)
        if source not in ("override", "head") or not single:
            continue
        if isinstance(call.layer, keras.layers.Lambda | keras.layers.InputLayer):
            continue
        for tensor in call.outputs:
            if tensor.dtype.is_floating and tensor.dtype.name != call.layer.compute_dtype:
                path = paths.get(id(call.layer), call.layer.name)
                raise _wrong(path, f"gives {tensor.dtype.name}", asked, source)


def _is_keras(layer: keras.layers.Layer) -> bool:
    return keras_class(layer).__module__.startswith("keras.")


def _wrong(path: str, what: str, asked: str, source: str) -> ConfigurationError:
    return ConfigurationError(
        f"The layer {path!r} {what}, and not under {asked} as asked (source: {source}).",
        where="precision",
        remedy="look for code that changes dtypes after the model is built, such as "
        "layer.dtype_policy = ... or quantize()",
    )


def _check_normalization(path: str, layer: keras.layers.Normalization) -> None:
    constants = [np.asarray(keras.ops.cast(x, "float32")) for x in (layer.mean, layer.variance)]
    if not all(np.isfinite(values).all() for values in constants):
        raise ConfigurationError(
            f"The statistics of the Normalization layer {path!r} are not finite in "
            f"{join_policy(layer.variable_dtype, layer.compute_dtype)}.",
            where="precision.overrides",
            remedy="compute it in float32: precision.overrides=[{match:'class:Normalization',"
            "policy:float32}]; where adapt() itself overflowed, give the layer dtype='float32' in "
            "the model's builder",
        )


def _check_time_distributed(
    path: str, layer: keras.layers.TimeDistributed, paths: Sequence[str]
) -> None:
    """Whether the layer inside has the policy of the one around it, which is what it computes in.

    Keras 3.15 calls `layer.call` there, past the casts of `layer.__call__`.
    """
    inside = layer.layer
    if not is_container(inside) and inside.compute_dtype != layer.compute_dtype:
        raise ConfigurationError(
            f"{path!r} computes the layer inside it in its own {layer.compute_dtype}, though that "
            f"one is to compute in {inside.compute_dtype}.",
            where="precision",
            remedy=f"give both one policy: precision.overrides=[{{match:'{naming(path, paths)}',"
            f"policy:{policy_name(inside)}}}]",
        )


def _check_inputs(traced: tracing.Trace, inputs: Any, paths: dict[int, str]) -> None:
    """Whether this batch's inputs survive the cast to float16."""
    flat = keras.tree.flatten(inputs)
    for cast in tracing.input_casts(traced):
        if cast.dtype != "float16":
            continue
        values = np.asarray(keras.ops.convert_to_numpy(flat[cast.position]))
        largest = np.max(np.abs(values), initial=0.0, where=np.isfinite(values))
        if largest > _FLOAT16_MAX:
            path = paths.get(id(cast.layer), cast.layer.name)
            raise ConfigurationError(
                f"The inputs reach {largest:g}, and {path!r} casts them to float16, whose "
                f"largest number is {_FLOAT16_MAX:g}.",
                where="precision.policy",
                remedy="scale the data, or compute the first layers in float32 by "
                f"{as_override([float32_rule(path, paths.values())])}, or take mixed_bfloat16",
            )
