"""Which layers the policy harms most, worst first: where a search for the culprit begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpt.probing.exponents import unit_roundoff
from mpt.probing.measures import Layer
from mpt.schema import HALF

NOTABLE_ROUNDINGS = 16
"""An error that a layer adds counts for more than its gradients' only above so many roundings."""


@dataclass(frozen=True)
class Ranked:
    """A layer that could be kept in float32.

    Attributes:
        score: its whole part is the kind of harm (3 forward not finite, 2 backward not finite, 1
            an error that the layer adds going forward, 0 its gradients' error), the rest the
            extent. Layers are sorted by it.
        reason: in words.
    """

    path: str
    score: float
    reason: str


def rank(layers: list[Layer], scale: float) -> list[Ranked]:
    """The layers that compute in half precision, worst first; of equals the earlier.

    A layer that has others inside answers only for what these do not explain.

    Args:
        scale: at which the gradients are judged.
    """
    found = [
        _ranked(layer, order, scale, _inside(layer, layers))
        for order, layer in enumerate(layers)
        if layer.movable and layer.compute_dtype in HALF
    ]
    return sorted(found, key=lambda each: -each.score)


def _ranked(layer: Layer, order: int, scale: float, inside: list[Layer]) -> Ranked:
    if not layer.outputs.finite:
        if layer.inputs.finite:
            score, reason = _begun(layer, order), "its outputs are not finite, its inputs are"
        else:
            score, reason = _earlier(order) / 2, "neither its inputs nor its outputs are finite"
        return Ranked(layer.path, 3 + score, reason)
    at = layer.scales.get(scale)
    if at is not None and (at.spoils or not at.losses.finite):
        place = order if layer.arrival is None else layer.arrival
        if at.spoils:
            score, reason = _begun(layer, place), "it makes finite gradients infinite"
        else:
            score, reason = _earlier(place) / 2, "the gradients that reach it are not finite"
        return Ranked(layer.path, 2 + score, f"{reason}, at scale {scale:g}")
    added = _unexplained(_added(layer), [_added(each) for each in inside])
    if added > NOTABLE_ROUNDINGS * unit_roundoff(layer.compute_dtype):
        entered, left = layer.inputs.relative or 0.0, layer.outputs.relative or 0.0
        return Ranked(
            layer.path, 1 + _part(added), f"forward error grows from {entered:.2g} to {left:.2g}"
        )
    error = _gradient_error(layer, scale)
    if error is None:
        return Ranked(layer.path, 0.0, "no gradient comes to it")
    own = _unexplained(error, [_gradient_error(each, scale) or 0.0 for each in inside])
    return Ranked(layer.path, _part(own), f"gradient error {error:.2g}")


def _inside(layer: Layer, layers: list[Layer]) -> list[Layer]:
    return [each for each in layers if each.path.startswith(f"{layer.path}/")]


def _added(layer: Layer) -> float:
    """The relative error of the outputs that the inputs did not bring along."""
    entered, left = layer.inputs.relative or 0.0, layer.outputs.relative or 0.0
    if math.inf in (entered, left):
        return 0.0
    return math.sqrt(max(0.0, left**2 - entered**2))


def _gradient_error(layer: Layer, scale: float) -> float | None:
    at = layer.scales.get(scale)
    return None if at is None else at.relative_error


def _unexplained(error: float, inside: list[float]) -> float:
    """What is left of an error, taken for independent of those inside."""
    explained = sum(each**2 for each in inside)
    return error if error == math.inf else math.sqrt(max(0.0, error**2 - explained))


def _begun(layer: Layer, place: int) -> float:
    """Where it began comes before what it reached, and the innermost layer before those around."""
    return (0.75 if layer.innermost else 0.5) + _earlier(place) / 4


def _earlier(place: int) -> float:
    return 1 / (2 + place)


def _part(size: float) -> float:
    """`size`, 0 or more, brought below 1."""
    return size / (1 + size) if size < math.inf else 1 - 2**-20
