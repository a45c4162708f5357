"""What is found, and in which words a layer is put into float32."""

from __future__ import annotations

from dataclasses import dataclass

from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject
from mpt.precision import walk
from mpt.rule_text import as_override, float32_rule


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
    rule = float32_rule(call.path, [path for path, _ in walk(subject.model)])
    return f'"{as_override([*subject.config.precision.overrides, rule])}"'
