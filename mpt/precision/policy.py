"""Build a model under a policy: the policy first, then the layers, then the exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import keras
import tensorflow as tf

from mpt.errors import ConfigurationError
from mpt.precision import float8
from mpt.precision import trace as tracing
from mpt.precision.layers import (
    descendants,
    graph_of,
    has_float_policy,
    is_container,
    is_functional,
    join_policy,
    keep_inputs,
    keeps_inputs,
    policy_name,
    set_input_dtype,
    set_policy,
    walk,
    wider,
)
from mpt.precision.losses import add_losses_in_float32
from mpt.precision.rules import Rule, parse, unmatched
from mpt.precision.trace import Trace
from mpt.schema import FLOAT8, HALF, LAYER_POLICIES

# Each trace hands the inputs one model deeper; nobody nests subclassed models deeper than that.
_MOST_TRACES = 10

HEADS = ("policy", *LAYER_POLICIES)


@dataclass
class Plan:
    """What was asked of one model.

    Attributes:
        policy: Keras's name of the global policy.
        head: policy of the layers that make the outputs, or "policy".
        rules: the overrides.
        original: each layer's policy as its builder left it.
        asked: each layer's policy as it should be, and its source: global, override, head, layer.
        heads: the layers that make the outputs, as far as they are known.
        hidden: layers that make an output where no policy reaches.
        float8: whether layers under the global policy are to have products in float8.
        converted: layers that have.
        refused: layers that were to, and cannot.
    """

    policy: str
    head: str = "policy"
    rules: tuple[Rule, ...] = ()
    original: WeakKeyDictionary[keras.layers.Layer, str] = field(default_factory=WeakKeyDictionary)
    asked: WeakKeyDictionary[keras.layers.Layer, tuple[str, str]] = field(
        default_factory=WeakKeyDictionary
    )
    heads: list[keras.layers.Layer] = field(default_factory=list)
    hidden: list[keras.layers.Layer] = field(default_factory=list)
    float8: bool = False
    converted: WeakSet[keras.layers.Layer] = field(default_factory=WeakSet)
    refused: WeakSet[keras.layers.Layer] = field(default_factory=WeakSet)

    def present(self, layer: keras.layers.Layer) -> str:
        """The policy that the layer has now, its products in float8 left out of account."""
        return float8.BASE if layer in self.converted else policy_name(layer)


# Beside the model, not on it: Keras tracks what is set on a model, and would save it.
_PLANS: WeakKeyDictionary[keras.Model, Plan] = WeakKeyDictionary()


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
        plan = _PLANS[model] = Plan(policy, head, rules, float8=in_float8)
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


def plan_of(model: keras.Model) -> Plan:
    """The plan of a model that `build` or `apply_table` has seen.

    Raises:
        ValueError: neither has.
    """
    try:
        return _PLANS[model]
    except KeyError:
        raise ValueError("the model was not made by mpt.precision.build") from None


def resolve(model: keras.Model, plan: Plan, *, final: bool) -> bool:
    """Give each layer that exists by now the policy asked for, and write down whence it came.

    Args:
        final: whether the model is whole, so that a rule that matches nothing is an error.

    Returns:
        Whether any layer changed.
    """
    layers = walk(model)
    for rule in plan.rules if final else ():
        if not any(rule.names(path, layer) for path, layer in layers):
            raise unmatched(rule, layers)
    for _, layer in layers:
        if has_float_policy(layer):
            plan.original.setdefault(layer, policy_name(layer))
    changed = False
    for layer, asked in derive(model, plan):
        plan.asked[layer] = asked
        if plan.present(layer) != asked[0]:
            set_policy(layer, asked[0])
            changed = True
    return changed


def convert(model: keras.Model, plan: Plan, traced: Trace) -> None:
    """Have the layers that the plan wants in float8 compute their products so, once and for all.

    It must come before weights are loaded and the optimizer is built: there are variables for it.
    """
    ruled = _ruled(model, plan.rules)
    wanted = []
    for layer, (_, source) in derive(model, plan):
        rule = ruled.get(id(layer))
        if (rule.policy == FLOAT8) if rule is not None else (plan.float8 and source == "global"):
            wanted.append(layer)
    plan.converted.update(float8.convert(model, wanted, traced))
    plan.refused = WeakSet(float8.left_in_bfloat16(wanted, traced))


def check_float8(model: keras.Model, plan: Plan) -> None:
    """Refuse what was to be in float8, and has no layer that is.

    Raises:
        ConfigurationError: that is so of the policy, or of a rule.
    """
    kinds = "Dense and EinsumDense layers that one pass calls once, the model's head excepted"
    if plan.float8 and not plan.converted:
        raise ConfigurationError(
            "No layer of the model can compute its products in float8.",
            where="precision.policy",
            remedy=f"only {kinds}, have such products; take mixed_bfloat16",
        )
    ruled = _ruled(model, plan.rules)
    useful = {ruled[id(layer)] for layer in plan.converted if id(layer) in ruled}
    for rule in plan.rules:
        if rule.policy == FLOAT8 and rule in set(ruled.values()) - useful:
            raise ConfigurationError(
                f"No layer that {rule.match!r} names can compute its products in float8.",
                where=f"{rule.where}.policy",
                remedy="only Dense and EinsumDense layers that one pass calls once have such "
                "products",
            )


def _ruled(model: keras.Model, rules: Sequence[Rule]) -> dict[int, Rule]:
    """The rule that holds for a layer, by its id: the last that names it, or what it is in."""
    layers = walk(model)
    found: dict[int, Rule] = {}
    for rule in rules:
        named = [layer for path, layer in layers if rule.names(path, layer)]
        found.update({id(each): rule for layer in named for each in descendants(layer)})
    return found


def derive(
    model: keras.Model,
    plan: Plan,
    *,
    policy: str | None = None,
    rules: Sequence[Rule] | None = None,
) -> list[tuple[keras.layers.Layer, tuple[str, str]]]:
    """The policy that each layer is asked to have, and its source; no layer is touched.

    Args:
        policy: in place of the plan's.
        rules: in place of the plan's.
    """
    policy = policy or plan.policy
    ruled = _ruled(model, plan.rules if rules is None else rules)
    heads = {id(each) for head in plan.heads for each in _whole(head)}
    derived = []
    for _, layer in walk(model):
        if not has_float_policy(layer):
            continue
        own = plan.original.get(layer) or policy_name(layer)
        is_global = own == plan.policy
        if id(layer) in ruled:
            asked = (ruled[id(layer)].keras_policy, "override")
        elif not is_global:
            asked = (own, "layer")
        elif id(layer) in heads and _head_applies(plan, policy):
            asked = (plan.head, "head")
        else:
            asked = (policy, "global")
        derived.append((layer, asked))
    return derived


def _whole(head: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A head with what it is made of, such as an LSTM's cell; a model's layers each count alone."""
    return [head] if isinstance(head, keras.Model) else descendants(head)


def _head_applies(plan: Plan, policy: str) -> bool:
    if plan.head == "policy":
        return False
    return plan.head != "float32" or policy.removeprefix("mixed_") in HALF


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


def computes_float16(model: keras.Model) -> bool:
    """Whether any layer computes in float16, so that gradients need a loss scale."""
    return any(
        layer.compute_dtype == "float16" for _, layer in walk(model) if not is_container(layer)
    )


def notes(model: keras.Model) -> list[str]:
    """What a user should know about the policies of a model that `build` made."""
    plan = plan_of(model)
    told = []
    kept = [path for path, layer in walk(model) if plan.asked.get(layer, ("", ""))[1] == "layer"]
    if kept:
        told.append(f"{len(kept)} layers keep the dtype that the model gave them, {kept[0]} first.")
    refused = [path for path, layer in walk(model) if layer in plan.refused]
    if refused:
        told.append(
            f"{len(refused)} layers stay out of float8, {refused[0]} first: its scales need a "
            "layer that is called once a step."
        )
    if plan.head == "policy":
        return told
    narrow = plan.policy.removeprefix("mixed_") in HALF
    for path, layer in walk(model):
        overridden = plan.asked.get(layer, ("", ""))[1] == "override"
        if overridden and layer in plan.heads and layer.compute_dtype in HALF:
            told.append(f"precision.overrides takes {path}, which makes an output, out of float32.")
        if narrow and layer in plan.hidden and layer.compute_dtype in HALF:
            told.append(
                f"{path} makes an output from weights of its own between its layers, in "
                f"{layer.compute_dtype}; put them in a layer to have them in float32."
            )
    return told


def table(model: keras.Model) -> list[dict[str, str]]:
    """Each layer's path, class, variable dtype, compute dtype and their source, parents first.

    The source is global (the policy), override (a rule), head, or layer (the model's own code).
    A subclassed model that hands its inputs on as they come has inputs: uncast too; a layer whose
    products are in float8 has quantization: float8.
    """
    plan = _PLANS.get(model) or Plan(policy_name(model))
    rows = []
    for path, layer in walk(model):
        own = "global" if plan.present(layer) == plan.policy else "layer"
        mode = layer.quantization_mode
        rows.append(
            {
                "path": path,
                "class": getattr(layer, "plain_class", type(layer)).__name__,
                "variable_dtype": layer.variable_dtype,
                "compute_dtype": layer.compute_dtype,
                "source": plan.asked.get(layer, ("", own))[1],
                **({"inputs": "uncast"} if keeps_inputs(layer) else {}),
                **({"quantization": mode} if mode is not None else {}),
            }
        )
    return rows


def apply_table(model: keras.Model, rows: Sequence[Mapping[str, str]]) -> None:
    """Give the layers of a loaded model the policies that `table` wrote down.

    A `.keras` file keeps the policies of a functional model's layers, and loses those of layers
    inside layers. Layers are found by path, or, where automatic names differ, by their order.

    Raises:
        ConfigurationError: the rows are of another model.
    """
    layers = walk(model)
    by_path = {row["path"]: row for row in rows}
    if [path for path, _ in layers] == list(by_path) or all(p in by_path for p, _ in layers[1:]):
        pairs = [(layer, by_path.get(path, rows[0] if rows else {})) for path, layer in layers]
    else:
        pairs = [(layer, row) for (_, layer), row in zip(layers, rows, strict=False)]
    if len(layers) != len(rows) or any(_class(layer) != row["class"] for layer, row in pairs):
        raise ConfigurationError(
            f"The table of policies has {len(rows)} layers, and is not of this model of "
            f"{len(layers)}.",
            where="precision.json",
        )
    plan = _PLANS[model] = Plan(join_policy(*_dtypes(rows[0])))
    for layer, row in pairs:
        if has_float_policy(layer) and layer.quantization_mode is None:
            name = join_policy(*_dtypes(row))
            if policy_name(layer) != name:
                set_policy(layer, name)
            if row.get("inputs") == "uncast":
                keep_inputs(layer)
            plan.original[layer] = name
            plan.asked[layer] = (name, row["source"])
    add_losses_in_float32(model)


def _dtypes(row: Mapping[str, str]) -> tuple[str, str]:
    return row["variable_dtype"], row["compute_dtype"]


def _class(layer: keras.layers.Layer) -> str:
    return getattr(layer, "plain_class", type(layer)).__name__
