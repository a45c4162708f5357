"""What a policy did to one layer's numbers, measured against the reference.

Sums and counts, which add up over batches; ratios are taken at the end. All of it is NumPy in
float64 on the tensors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpt.precision import keras_class
from mpt.probing.exponents import Array, Histogram, chunks, limits
from mpt.probing.observation import Observation, Seen
from mpt.schema import HALF


@dataclass
class Distance:
    """Sums of squares, for a relative error: L2 norm of the difference over the reference's."""

    difference: float = 0.0
    reference: float = 0.0
    finite: bool = True
    elements: int = 0

    def add(self, value: Array, reference: Array, scale: float = 1.0) -> None:
        """Compare `value` / `scale` with `reference`, of the same shape."""
        for part, true in chunks(value, reference):
            part, true = part.astype(np.float64), true.astype(np.float64)
            if not np.isfinite(part).all():
                self.finite = False
                continue
            self.difference += float(np.sum(np.square(part / scale - true)))
            self.reference += float(np.sum(np.square(true)))
        self.elements += value.size

    @property
    def relative(self) -> float | None:
        """inf where a value was not finite, or the reference is zero and the value not; None where
        nothing was compared."""
        if not self.elements:
            return None
        if not self.finite or (self.difference and not self.reference):
            return math.inf
        return math.sqrt(self.difference / self.reference) if self.difference else 0.0


@dataclass
class Losses:
    """What became of gradients, element by element.

    Attributes:
        non_zero: elements that are not zero in the reference.
        lost: of these, elements that are zero under the policy.
        elements: all elements.
        subnormal: elements below the dtype's smallest normal number, and not zero.
        largest: largest finite magnitude, scaled; 0 where all are zero.
        headroom_bits: log2 of the dtype's largest number over `largest`.
    """

    non_zero: int = 0
    lost: int = 0
    elements: int = 0
    subnormal: int = 0
    largest: float = 0.0
    headroom_bits: float = math.inf
    finite: bool = True

    def add(self, gradient: Array, reference: Array, dtype: str) -> None:
        """Count `gradient`, scaled, which went through `dtype`, beside the reference's."""
        bounds = limits(dtype)
        for part, true in chunks(gradient, reference):
            magnitude = np.abs(part.astype(np.float64))
            was = true != 0
            self.non_zero += int(np.count_nonzero(was))
            self.lost += int(np.count_nonzero(was & (magnitude == 0)))
            below = (magnitude > 0) & (magnitude < bounds.smallest_normal)
            self.subnormal += int(np.count_nonzero(below))
            good = np.isfinite(magnitude)
            self.finite &= bool(good.all())
            self.largest = max(self.largest, float(np.max(magnitude, initial=0.0, where=good)))
        self.elements += gradient.size
        if self.largest:
            self.headroom_bits = min(
                self.headroom_bits, math.log2(bounds.largest) - math.log2(self.largest)
            )

    def merge(self, other: Losses) -> None:
        """Take in the counts of `other`."""
        self.non_zero += other.non_zero
        self.lost += other.lost
        self.elements += other.elements
        self.subnormal += other.subnormal
        self.largest = max(self.largest, other.largest)
        self.headroom_bits = min(self.headroom_bits, other.headroom_bits)
        self.finite &= other.finite

    @property
    def underflow_share(self) -> float | None:
        """Share of the non-zero elements that became zero; None where there were none."""
        return self.lost / self.non_zero if self.non_zero else None

    @property
    def subnormal_share(self) -> float | None:
        """Share of all elements; None where there were none."""
        return self.subnormal / self.elements if self.elements else None


@dataclass
class Gradients:
    """Gradients of one kind, of one layer at one scale.

    Attributes:
        error: of the unscaled gradients.
        losses: element by element.
        half: the part of `losses` that went through half precision.
        exponents: of the scaled gradients that went through half precision.
    """

    error: Distance = field(default_factory=Distance)
    losses: Losses = field(default_factory=Losses)
    half: Losses = field(default_factory=Losses)
    exponents: Histogram = field(default_factory=Histogram)

    def add(self, gradient: Array, reference: Array, scale: float, dtype: str) -> None:
        """Take in `gradient`, of the loss times `scale`, computed in `dtype`."""
        self.error.add(gradient, reference, scale)
        losses = Losses()
        losses.add(gradient, reference, dtype)
        self.losses.merge(losses)
        if dtype in HALF:
            self.half.merge(losses)
            self.exponents.add(gradient)


@dataclass
class AtScale:
    """One layer at one loss scale: the gradients of its outputs, and those of its weights.

    Attributes:
        spoils: finite gradients came to its outputs, and others left it.
    """

    spoils: bool = False
    activations: Gradients = field(default_factory=Gradients)
    weights: Gradients = field(default_factory=Gradients)

    @property
    def relative_error(self) -> float | None:
        """Of the weights' gradients, or of the activations' where the layer has no weights."""
        has_weights = self.weights.error.elements > 0
        return (self.weights if has_weights else self.activations).error.relative

    @property
    def losses(self) -> Losses:
        """Of both."""
        return merged([self.activations.losses, self.weights.losses])


@dataclass
class Layer:
    """One layer, or one operation of a functional model, over all batches.

    Attributes:
        kind: class of the layer; "operation" for an operation.
        compute_dtype: under the policy.
        innermost: no other layer was called inside it.
        movable: precision.overrides can name it alone.
        arrival: place in the backward pass; None where no gradient came.
        inputs, outputs: relative error of what came in and of what went out.
        scales: by loss scale.
        activation_exponents, weight_exponents: of the reference's gradients, unscaled, those that
            go through half precision under the policy.
    """

    path: str
    kind: str
    compute_dtype: str
    innermost: bool
    movable: bool
    arrival: int | None = None
    inputs: Distance = field(default_factory=Distance)
    outputs: Distance = field(default_factory=Distance)
    scales: dict[float, AtScale] = field(default_factory=dict)
    activation_exponents: Histogram = field(default_factory=Histogram)
    weight_exponents: Histogram = field(default_factory=Histogram)


def add_forward(layers: dict[str, Layer], seen: Observation, reference: Observation) -> None:
    """Take in what two steps on the same batch showed going forward."""
    for path, now in seen.layers.items():
        layer = layers.setdefault(path, _layer(now))
        true = reference.layers.get(path, Seen(path, None))
        for value, expected in _pairs(now.inputs, true.inputs):
            layer.inputs.add(value, expected)
        for value, expected in _pairs(now.outputs, true.outputs):
            layer.outputs.add(value, expected)
        for value, expected in _pairs(now.activation_gradients, true.activation_gradients):
            if str(value.dtype) in HALF:
                layer.activation_exponents.add(expected)
        if layer.compute_dtype in HALF:
            for _, expected in _pairs(now.weight_gradients, true.weight_gradients):
                layer.weight_exponents.add(expected)


def add_backward(
    layers: dict[str, Layer], seen: Observation, reference: Observation, scale: float
) -> None:
    """Take in the gradients of a step at `scale`, beside the reference's at scale 1."""
    for path, now in seen.layers.items():
        layer = layers[path]
        layer.arrival = now.arrival
        true = reference.layers.get(path, Seen(path, None))
        at = layer.scales.setdefault(scale, AtScale())
        for value, expected in _pairs(now.activation_gradients, true.activation_gradients):
            at.activations.add(value, expected, scale, str(value.dtype))
        for value, expected in _pairs(now.weight_gradients, true.weight_gradients):
            at.weights.add(value, expected, scale, layer.compute_dtype)
        at.spoils |= _finite(now.activation_gradients) and not (
            _finite(now.input_gradients) and _finite(now.weight_gradients)
        )


def merged(parts: Iterable[Losses]) -> Losses:
    """All of `parts` together."""
    together = Losses()
    for part in parts:
        together.merge(part)
    return together


def _layer(seen: Seen) -> Layer:
    layer = seen.layer
    if layer is None:
        dtypes = [str(output.dtype) for output in seen.outputs]
        return Layer(seen.path, "operation", dtypes[0] if dtypes else "", seen.innermost, False)
    kind = keras_class(layer).__name__
    return Layer(seen.path, kind, layer.compute_dtype, seen.innermost, seen.movable)


def _finite(gradients: Sequence[Array | None]) -> bool:
    return all(
        np.isfinite(part).all()
        for gradient in gradients
        if gradient is not None
        for part in chunks(gradient)
    )


def _pairs(
    values: Sequence[Array | None], references: Sequence[Array | None]
) -> list[tuple[Array, Array]]:
    return [
        (value, reference)
        for value, reference in zip(values, references, strict=False)
        if value is not None and reference is not None and value.shape == reference.shape
    ]
