"""Weights of the losses, one for each output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.objective.names import checked_names, wrong_number

Weights = float | list[float] | dict[str, float]


def weighted(
    loss: Any, weights: Weights, names: list[str], pack: Callable[[Sequence[Any]], Any]
) -> tuple[Any, Any]:
    """`loss` and `weights` in one structure, as Keras's `compile` takes them.

    Args:
        loss: one loss, or a list or dict of losses by output.
        weights: a number, for every output; a list in their order; or a dict by their names.
        names: of the model's outputs.
        pack: puts one value for each output into the outputs' structure.

    Raises:
        ConfigurationError: not one weight for each output, or an output that is not there.
    """
    flat = _by_output(weights, names)
    if isinstance(loss, dict) and set(loss) <= set(names):
        of = dict(zip(names, flat, strict=True))
        return loss, {name: of[name] for name in loss}
    if keras.tree.is_nested(loss):
        return loss, keras.tree.pack_sequence_as(loss, flat)
    if len(set(flat)) == 1:
        return loss, flat[0]
    return pack([loss] * len(flat)), pack(flat)


def _by_output(weights: Weights, names: list[str]) -> list[float]:
    if isinstance(weights, dict):
        checked_names(weights, names, "loss_weights")
        for name in names:
            if name not in weights:
                raise ConfigurationError(
                    f"the output {name!r} has no weight",
                    where="loss_weights",
                    remedy=f"add {name}: 1.0",
                )
        return [float(weights[name]) for name in names]
    if isinstance(weights, list | tuple):
        if len(weights) != len(names):
            raise wrong_number("loss_weights", len(weights), names)
        return [float(weight) for weight in weights]
    return [float(weights)] * len(names)
