"""What a probe found, as probe.json holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mpt.probing.exponents import Histogram, limits
from mpt.probing.measures import AtScale, Layer
from mpt.probing.ranking import Ranked
from mpt.probing.recommendation import Recommendation, ScaleRow, histograms
from mpt.schema import HALF

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Findings:
    """All that one probe found.

    Attributes:
        policy: the policy probed.
        reference: dtype of the reference.
        scale: the run's own at its first step.
        model: its name.
        layers: in the order of their calls' ends.
        scales: ascending.
        notes: what the user should know about how it was measured.
    """

    policy: str
    reference: str
    batches: int
    batch_size: int
    scale: float
    model: str
    layers: list[Layer]
    scales: list[ScaleRow]
    recommendation: Recommendation
    ranking: list[Ranked]
    notes: Sequence[str] = ()

    @property
    def dtype(self) -> str:
        """The half-precision dtype whose limits matter: float16 where any layer computes in it."""
        found = {layer.compute_dtype for layer in self.layers}
        return next(dtype for dtype in HALF if dtype in found)


def document(findings: Findings) -> dict[str, Any]:
    """The content of probe.json; not measured is null, infinities are strings once encoded."""
    bounds = limits(findings.dtype)
    return {
        "schema_version": SCHEMA_VERSION,
        "model": findings.model,
        "policy": findings.policy,
        "reference": findings.reference,
        "batches": findings.batches,
        "batch_size": findings.batch_size,
        "scale": findings.scale,
        "dtype": {"name": findings.dtype, **asdict(bounds)},
        "recommendation": asdict(findings.recommendation),
        "ranking": [asdict(each) for each in findings.ranking],
        "scales": [asdict(row) for row in findings.scales],
        "layers": [layer_row(layer, findings.scale) for layer in findings.layers],
        "histograms": {
            "reference": _histograms(findings.layers, None),
            "policy": [
                {"scale": row.scale, **_histograms(findings.layers, row.scale)}
                for row in findings.scales
            ],
        },
        "notes": list(findings.notes),
    }


def layer_row(layer: Layer, scale: float) -> dict[str, Any]:
    """One layer: forward, and backward at `scale`; then backward at every scale."""
    at = layer.scales.get(scale, AtScale())
    losses = at.losses
    return {
        "path": layer.path,
        "class": layer.kind,
        "compute_dtype": layer.compute_dtype,
        "forward_relative_error": layer.outputs.relative,
        "gradient_relative_error": at.relative_error,
        "underflow_share": losses.underflow_share,
        "subnormal_share": losses.subnormal_share,
        "largest_scaled_gradient": losses.largest if losses.elements else None,
        "forward_finite": layer.outputs.finite,
        "backward_finite": losses.finite and not at.spoils,
        "headroom_bits": losses.headroom_bits if losses.elements else None,
        "activation_underflow_share": at.activations.losses.underflow_share,
        "weight_underflow_share": at.weights.losses.underflow_share,
        "scales": [_at(each, own) for each, own in sorted(layer.scales.items())],
        "histograms": {
            "reference": _pair(layer.activation_exponents, layer.weight_exponents),
            "policy": _pair(at.activations.exponents, at.weights.exponents),
        },
    }


def _at(scale: float, at: AtScale) -> dict[str, Any]:
    losses = at.losses
    return {
        "scale": scale,
        "finite": losses.finite and not at.spoils,
        "largest": losses.largest if losses.elements else None,
        "underflow_share": losses.underflow_share,
        "subnormal_share": losses.subnormal_share,
        "gradient_relative_error": at.relative_error,
    }


def _histograms(layers: list[Layer], scale: float | None) -> dict[str, Any]:
    found = histograms(layers, scale)
    return _pair(found["activation_gradients"], found["weight_gradients"])


def _pair(activations: Histogram, weights: Histogram) -> dict[str, Any]:
    return {
        "activation_gradients": _histogram(activations),
        "weight_gradients": _histogram(weights),
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "zero": histogram.zeros,
        "non_finite": histogram.non_finite,
        "exponents": {str(e): n for e, n in histogram.by_exponent().items()},
    }
