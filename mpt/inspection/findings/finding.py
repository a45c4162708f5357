"""What is found, and in which words a layer is put into float32."""

from __future__ import annotations

from dataclasses import dataclass

from mpt.inspection.recording import LayerCall


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


def override(path: str, policy: str = "float32") -> str:
    """The configuration that puts a layer, and what is inside it, under `policy`."""
    return f"precision.overrides=[{{match:'{path}',policy:{policy}}}]"


def in_float32(call: LayerCall) -> str:
    """How to have what a call computes in float32."""
    if call.layer is None:
        return "put keras.ops.cast(x, 'float32') in front of it"
    if call.parent is None:
        return "cast to float32 there, or move it into a layer that precision.overrides can name"
    return override(call.path)
