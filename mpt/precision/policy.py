"""Build a model under a policy: the policy first, then the layers, then the exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.precision import float8
from mpt.precision import trace as tracing
from mpt.precision.layers import (
    graph_of,
    has_float_policy,
    is_container,
    is_functional,
    keep_inputs,
    keeps_inputs,
    policy_name,
    set_input_dtype,
    walk,
    wider,
)
from mpt.precision.losses import add_losses_in_float32
from mpt.precision.plan import Plan, derive, remember, resolve, ruled_by
from mpt.precision.rules import parse
from mpt.precision.trace import Trace
from mpt.schema import FLOAT8, HALF, LAYER_POLICIES

# Each trace hands the inputs one model deeper; nobody nests subclassed models deeper than that.
_MOST_TRACES = 10

HEADS = ("policy", *LAYER_POLICIES)


def build(
    builder: Callable[[], keras.Model],
    *,
    policy: str,
    head: str = "float32",
    overrides: Sequence[Mapping[str, Any]] = (),
    in_float8: bool = False,
) -> keras.Model:
    """Set the global policy, call `builder`, and give some layers of its model other policies.

    The policy must come first: a layer takes it when it is made. It stays the global policy, for
    layers that a model makes only when it is first called; on a failure the former one is put
    back. Where the model's graph is not known yet (subclassed models, unbuilt ones), `verify`
    completes the work.

    Args:
        builder: makes the model. A dtype that it gives a layer itself is kept.
        policy: one of `mpt.schema.LAYER_POLICIES`.
        head: policy of the layers that make the outputs, wholly; "policy" leaves them as the
            rest. "float32" never narrows: under float64 they stay in float64.
        overrides: ordered {match, policy} rules, see `rules.Rule`; the last match wins, over the
            head and over the builder too.
        in_float8: have Dense and EinsumDense layers compute products in float8 where `policy` is
            what they are under; see `float8`. A rule's policy float8 is mixed_bfloat16 with that.

    Raises:
        ConfigurationError: an unknown policy, a rule that matches nothing, a builder that
            undoes the policy or whose model never took it.
    """
    for name, allowed, where in (
        (policy, LAYER_POLICIES, "precision.policy"),
        (head, HEADS, "precision.head"),
    ):
        if name not in allowed:
            raise ConfigurationError(
                f"There is no policy {name!r} here.", where=where, allowed=allowed, value=name
            )
    rules = parse(overrides)
    before = keras.config.dtype_policy()
    try:
        model = _call(builder, policy)
        plan = remember(model, Plan(policy, head, rules, float8=in_float8))
        functional = is_functional(model)
        resolve(model, plan, final=functional)
        if functional:
            specs = tracing.specs(graph_of(model)._inputs_struct)
            convert(model, plan, refine(model, plan, specs, once=True))
    except BaseException:
        keras.config.set_dtype_policy(before)
        raise
    add_losses_in_float32(model)
    return model


def _call(builder: Callable[[], keras.Model], policy: str) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    try:
        model = builder()
    except tf.errors.InvalidArgumentError as error:
        if policy not in HALF:
            raise
        # Orthogonal initializers (LSTM, GRU) have no kernel for half-precision weights, say.
        raise ConfigurationError(
            f"The model cannot be built with its weights in {policy}: {error.message}",
            where="precision.policy",
            remedy=f"take mixed_{policy}, which keeps them in float32",
        ) from error
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"The model's builder returned {type(model).__name__}, not a keras.Model.",
            where="model",
        )
    left = keras.config.dtype_policy().name
    if left != policy:
        raise ConfigurationError(
            f"The model's builder changed Keras's global policy from {policy} to {left}.",
            where="model",
            remedy="take keras.backend.clear_session() and calls that set the policy out of the "
            "builder; choose the policy by precision.policy",
        )
    layers = [
        layer for _, layer in walk(model) if has_float_policy(layer) and not is_container(layer)
    ]
    if layers and all(policy_name(layer) != policy for layer in layers):
        raise ConfigurationError(
            f"No layer of the model took the policy {policy}.",
            where="model",
            remedy="make the layers inside the builder, after the policy is set: a model made "
            "before, or loaded from a file, keeps the policies it has",
        )
    return model


def refine(model: keras.Model, plan: Plan, inputs: Any, *, once: bool = False) -> Trace:
    """Trace the model until its heads have their policy and its inputs reach them uncast.

    Args:
        inputs: nested `tf.TensorSpec`s, batch first.
        once: trace no second time to see what the changes did: half the cost, for a model that
            `verify` sees again.

    Returns:
        The last trace; without `once`, of the model as it stays.
    """
    for _ in range(1 if once else _MOST_TRACES):
        traced = tracing.trace(model, inputs)
        found = tracing.heads(traced)
        plan.heads, plan.hidden = found.layers, found.hidden
        changed = resolve(model, plan, final=True)
        for cast in tracing.input_casts(traced):
            # A functional model hands its inputs on; others cast them, though each of their
            # layers casts for itself: a float32 first layer would get what float16 left over.
            model_casts = isinstance(cast.layer, keras.Model) and cast.passed_on
            if model_casts and cast.dtype in HALF and not keeps_inputs(cast.layer):
                keep_inputs(cast.layer)
                changed = True
        if not changed:
            break
    _refresh_symbolic_outputs(traced, plan)
    _refresh_nested_inputs(traced)
    return traced


def _refresh_nested_inputs(traced: Trace) -> None:
    """Have nested models take their inputs in the dtype in which they come.

    Keras wrote that down when they were made, and casts to it: a float32 layer inside a nested
    model would get what float16 left of the output of a float32 layer before it.
    """
    for call in traced.calls[1:]:
        if not is_functional(call.layer):
            continue
        for symbolic, tensor in zip(graph_of(call.layer)._inputs, call.inputs, strict=False):
            if tensor.dtype.is_floating and keras.backend.is_float_dtype(symbolic.dtype):
                set_input_dtype(symbolic, wider(symbolic.dtype, tensor.dtype.name))


def _refresh_symbolic_outputs(traced: Trace, plan: Plan) -> None:
    """Bring `model.output.dtype` up to date: Keras wrote it down under the former policies."""
    for call in traced.calls:
        if not call.in_graph or not is_functional(call.layer):
            continue
        for symbolic, tensor in zip(call.layer.outputs, call.outputs, strict=False):
            maker = traced.maker(tensor)
            if maker is not None and maker.layer in plan.heads:
                symbolic._dtype = maker.layer.compute_dtype
            else:
                symbolic._dtype = tensor.dtype.name


def convert(model: keras.Model, plan: Plan, traced: Trace) -> None:
    """Have the layers that the plan wants in float8 compute their products so, once and for all.

    It must come before weights are loaded and the optimizer is built: there are variables for it.
    """
    if not plan.wants_float8:
        return
    ruled = ruled_by(model, plan.rules)
    wanted = []
    for layer, (_, source) in derive(model, plan):
        rule = ruled.get(id(layer))
        if (rule.policy == FLOAT8) if rule is not None else (plan.float8 and source == "global"):
            wanted.append(layer)
    converted, refused = float8.convert(model, wanted, traced)
    plan.converted.update(converted)
    plan.refused = WeakSet(refused)


def check_float8(model: keras.Model, plan: Plan) -> None:
    """Refuse what was to be in float8, and has no layer that is.

    Raises:
        ConfigurationError: that is so of the policy, or of a rule.
    """
    if not plan.wants_float8:
        return
    kinds = "Dense and EinsumDense layers that one pass calls once, the model's head excepted"
    if plan.float8 and not plan.converted:
        raise ConfigurationError(
            "No layer of the model can compute its products in float8.",
            where="precision.policy",
            remedy=f"only {kinds}, have such products; take mixed_bfloat16",
        )
    ruled = ruled_by(model, plan.rules)
    useful = {ruled[id(layer)] for layer in plan.converted if id(layer) in ruled}
    for rule in plan.rules:
        if rule.policy == FLOAT8 and rule in set(ruled.values()) - useful:
            raise ConfigurationError(
                f"No layer that {rule.match!r} names can compute its products in float8.",
                where=f"{rule.where}.policy",
                remedy="only Dense and EinsumDense layers that one pass calls once have such "
                "products",
            )
