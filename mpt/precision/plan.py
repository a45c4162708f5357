"""What policy each layer of a model is asked to have, and whence that comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

import keras

from mpt.precision.layers import (
    descendants,
    has_float_policy,
    policy_name,
    set_policy,
    walk,
)
from mpt.precision.rules import Rule, unmatched
from mpt.schema import FLOAT8, FLOAT8_BASE, HALF


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

    @property
    def wants_float8(self) -> bool:
        """Whether anything is to have products in float8."""
        return self.float8 or any(rule.policy == FLOAT8 for rule in self.rules)

    def present(self, layer: keras.layers.Layer) -> str:
        """The policy that the layer has now, its products in float8 left out of account."""
        return FLOAT8_BASE if layer in self.converted else policy_name(layer)


# Beside the model, not on it: Keras tracks what is set on a model, and would save it.
_PLANS: WeakKeyDictionary[keras.Model, Plan] = WeakKeyDictionary()


def remember(model: keras.Model, plan: Plan) -> Plan:
    """Let `plan` be the model's from now on."""
    _PLANS[model] = plan
    return plan


def known(model: keras.Model) -> Plan | None:
    """The plan of a model; None where there is none."""
    return _PLANS.get(model)


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


def ruled_by(model: keras.Model, rules: Sequence[Rule]) -> dict[int, Rule]:
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
    ruled = ruled_by(model, plan.rules if rules is None else rules)
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
