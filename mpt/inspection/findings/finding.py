"""What is found, and in which words a layer is put into float32."""

from __future__ import annotations

from dataclasses import dataclass

from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject
from mpt.numerics.remedies import as_override, match


@dataclass(frozen=True)
class Finding:
    """Something to change.

    Attributes:
        kind: what it is, in a word that stays the same from release to release.
        path: of the layer; None where it concerns the configuration.
        remedy: what to do.
    """

    kind: str
    path: str | None
    message: str
    remedy: str


def in_float32(subject: Subject, call: LayerCall) -> str:
    """How to have what a call computes in float32."""
    if call.layer is None:
        return "put keras.ops.cast(x, 'float32') in front of it"
    if call.parent is None or not call.known:
        return "cast to float32 there, or move it into a layer that precision.overrides can name"
    rule = {"match": match(subject.model, call.path), "policy": "float32"}
    return f'"{as_override([*subject.config.precision.overrides, rule])}"'
