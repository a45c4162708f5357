"""What the layers of a model would be under another policy or with other rules; none changes."""

from __future__ import annotations

import keras

from mpt.precision.plan import derive, plan_of
from mpt.precision.rules import Rule


def policies_under(model: keras.Model, policy: str) -> list[tuple[keras.layers.Layer, str]]:
    """The policy of each layer of a floating dtype if `policy` were the global one.

    Head and overrides hold as configured. A dtype that the model's own code gave a layer is known
    as such only where it differs from the present global policy.

    Args:
        model: that `build` made.
        policy: Keras's name of it, one of `mpt.schema.LAYER_POLICIES`.
    """
    return [(layer, asked) for layer, (asked, _) in derive(model, plan_of(model), policy=policy)]


def rules_without_effect(model: keras.Model) -> list[Rule]:
    """The overrides each of which could be left out without any layer taking another policy."""
    plan = plan_of(model)
    present = [asked for _, (asked, _) in derive(model, plan)]
    return [
        rule
        for rule in plan.rules
        if present
        == [
            asked
            for _, (asked, _) in derive(
                model, plan, rules=[other for other in plan.rules if other is not rule]
            )
        ]
    ]
