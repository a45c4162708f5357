"""Which loss scale a model needs under a policy, and whether it needs one at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mpt.probing.exponents import Histogram
from mpt.probing.measures import Layer, Losses, merged
from mpt.report.numbers import power_of_two
from mpt.rule_text import IN_FLOAT32_BY_HAND, as_override, float32_rule
from mpt.schema import HALF

HIGHEST_EXPONENT = 24
HEADROOM_BITS = 2.0
LOST_SHARE = 0.01
NOTABLE_ERROR = 0.01
SCALES = tuple(2.0**exponent for exponent in range(HIGHEST_EXPONENT + 1))
SMALLER_SCALES = tuple(2.0**-exponent for exponent in range(1, 15))
"""Looked at, one after the other, only where scale 1 leaves too little headroom."""


@dataclass(frozen=True)
class ScaleRow:
    """All gradients that went through half precision, at one scale.

    Attributes:
        finite: whether every gradient of the step was, in half precision or not.
        largest: largest finite scaled gradient.
        headroom_bits: from it to the dtype's largest number; inf where all gradients are zero.
    """

    scale: float
    finite: bool
    largest: float
    underflow_share: float | None
    subnormal_share: float | None
    headroom_bits: float

    @property
    def has_headroom(self) -> bool:
        """Whether an initial scale may be this one."""
        return self.finite and self.headroom_bits >= HEADROOM_BITS


@dataclass(frozen=True)
class Recommendation:
    """Attributes:
    needed: whether the policy needs loss scaling on these batches.
    initial_scale: the largest with headroom; 1 where no layer computes in float16 and none is
        needed; None where none was found.
    message: the same in words, with the reason and the policy.
    """

    needed: bool
    initial_scale: float | None
    message: str


def scale_row(layers: Iterable[Layer], scale: float) -> ScaleRow:
    """The totals at one scale; of activations those between the innermost layers."""
    at = [(layer, layer.scales[scale]) for layer in layers if scale in layer.scales]
    half = merged(
        part.half
        for layer, each in at
        for part in (each.weights, *([each.activations] if layer.innermost else []))
    )
    everything = merged(each.losses for _, each in at)
    return ScaleRow(
        scale,
        everything.finite,
        half.largest,
        half.underflow_share,
        half.subnormal_share,
        half.headroom_bits,
    )


def histograms(layers: Iterable[Layer], scale: float | None) -> dict[str, Histogram]:
    """Exponents of all gradients in half precision: activations between the innermost layers, and
    weights; at a scale, or of the reference where `scale` is None."""
    activations, weights = Histogram(), Histogram()
    for layer in layers:
        if scale is None:
            own = layer.activation_exponents, layer.weight_exponents
        else:
            at = layer.scales[scale]
            own = at.activations.exponents, at.weights.exponents
        if layer.innermost:
            activations.merge(own[0])
        weights.merge(own[1])
    return {"activation_gradients": activations, "weight_gradients": weights}


def recommend(layers: list[Layer], rows: list[ScaleRow], policy: str) -> Recommendation:
    """The initial scale, and whether it is needed.

    Loss scaling is needed where, at scale 1, a layer in half precision loses more than 1% of its
    non-zero gradient elements, or its relative gradient error is above 1% and falls by more than
    half at the recommended scale.

    Args:
        rows: of the scales that were tried.
        policy: that they hold for.
    """
    fitting = [row for row in rows if row.has_headroom]
    best = max(fitting, key=lambda row: row.scale) if fitting else None
    if not any(at.losses.non_zero for layer in layers for at in layer.scales.values()):
        return Recommendation(False, None, "No layer has a gradient: there is nothing to scale.")
    reason = _reason(layers, best.scale if best else None)
    if best is None:
        return _none_fits(layers, rows, policy)
    float16 = any(layer.compute_dtype == "float16" for layer in layers)
    if reason is None:
        first = (
            f"{policy} needs no loss scaling at these weights: at scale 1 no layer loses more "
            f"than {LOST_SHARE:.0%} of its non-zero gradients."
        )
        if not float16:
            return Recommendation(False, 1.0, f"{first} loss_scale=none is enough.")
        return Recommendation(
            False,
            best.scale,
            f"{first} Gradients shrink in training, so loss_scale=dynamic stays the safe choice; "
            f"{_setting(best)}",
        )
    return Recommendation(
        True, best.scale, f"{policy} needs loss scaling: {reason}. {_setting(best)}"
    )


def _setting(best: ScaleRow) -> str:
    return (
        f"loss_scale.initial_scale={best.scale:.10g} ({power_of_two(best.scale)}) is the largest "
        f"power of two up to 2^{HIGHEST_EXPONENT} with at least {HEADROOM_BITS:g} bits of headroom "
        f"(it has {best.headroom_bits:.1f})."
    )


def _reason(layers: list[Layer], best: float | None) -> str | None:
    """Why scale 1 will not do, by the worst layer; None where it will."""
    lossy: list[tuple[float, str]] = []
    wrong: list[tuple[float, str, float]] = []
    for layer in layers:
        at = layer.scales.get(1.0)
        if at is None or layer.compute_dtype not in HALF:
            continue
        share = _half_share(at.activations.half, at.weights.half)
        if share > LOST_SHARE:
            lossy.append((share, layer.path))
        error = at.relative_error
        then = layer.scales[best].relative_error if best in layer.scales else None
        if error is not None and then is not None and error > NOTABLE_ERROR and then < error / 2:
            wrong.append((error, layer.path, then))
    if lossy:
        share, path = max(lossy, key=lambda each: each[0])
        more = f" ({len(lossy)} layers lose more than {LOST_SHARE:.0%})" if len(lossy) > 1 else ""
        return f"at scale 1 {path} loses {share:.0%} of its non-zero gradients{more}"
    if wrong:
        error, path, then = max(wrong, key=lambda each: each[0])
        return (
            f"the gradients of {path} are {error:.1%} off at scale 1, "
            f"{then:.1%} at {power_of_two(best)}"
        )
    return None


def _half_share(*parts: Losses) -> float:
    return merged(parts).underflow_share or 0.0


def _in_float32(broken: Layer, layers: list[Layer]) -> str:
    """How what is not finite comes to compute in float32."""
    if not broken.movable:
        return f"{IN_FLOAT32_BY_HAND[0].upper()}{IN_FLOAT32_BY_HAND[1:]}"
    rule = float32_rule(broken.path, [layer.path for layer in layers])
    return (
        f'Keep that layer in float32, "{as_override([rule])}", have mpt bisect find what else '
        "must be"
    )


def _none_fits(layers: list[Layer], rows: list[ScaleRow], policy: str) -> Recommendation:
    broken = next((layer for layer in layers if not layer.outputs.finite), None)
    if broken is not None:
        text = (
            f"Under {policy} the forward pass is not finite, {broken.path} first: no loss scale "
            f"helps. {_in_float32(broken, layers)}, or take mixed_bfloat16."
        )
    else:
        smallest = min(rows, key=lambda row: row.scale)
        text = (
            f"Under {policy} no loss scale down to {power_of_two(smallest.scale)} leaves "
            f"{HEADROOM_BITS:g} bits of headroom: the gradients themselves are too large. Take a "
            "mean instead of a sum in the loss, or mixed_bfloat16."
        )
    return Recommendation(False, None, text)
