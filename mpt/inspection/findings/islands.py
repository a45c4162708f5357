"""Float32 layers between half-precision ones: each way in and out of them is a cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from mpt.inspection.findings.finding import Finding
from mpt.inspection.findings.operations import (
    exponentials,
    long_reductions,
    softmaxes,
    unscaled_attention,
)
from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject, size_of
from mpt.report.numbers import size
from mpt.schema import HALF

# These compute in float32 inside, whatever their policy: a float32 policy spares them nothing.
_FLOAT32_INSIDE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


@dataclass
class _Island:
    """Layers in float32 that hang together, and the casts on their shores, by operation."""

    calls: dict[str, LayerCall] = field(default_factory=dict)
    entries: dict[int, tf.Operation] = field(default_factory=dict)
    exits: dict[int, tf.Operation] = field(default_factory=dict)


def float32_islands(subject: Subject) -> Iterator[Finding]:
    """Islands that are not there for their numbers.

    One that holds an exponential, a softmax, a long sum or attention that scales late is left
    alone: in half precision it would be a finding of another kind.
    """
    if subject.step is None or subject.prepared.compute_dtype not in HALF:
        return
    justified = _justified(subject)
    for island in _islands(subject):
        paths = list(island.calls)
        if not island.exits or justified & set(paths):
            continue
        into, back = _bytes(island.entries), _bytes(island.exits)
        if into is None or back is None:
            amount = "an amount that is not measured"
        else:
            amount = f"{size(into)} into float32 and {size(back)} back"
        others = f" with {', '.join(paths[1:])}" if len(paths) > 1 else ""
        yield Finding(
            "float32_island",
            paths[0],
            f"Computed in float32{others} between layers in {subject.prepared.compute_dtype}: "
            f"each step casts {amount}, and their gradients again.",
            f"leave it in {subject.prepared.compute_dtype} unless its numbers need float32 (mpt "
            "probe tells); or put its neighbours in float32 too",
        )


def _justified(subject: Subject) -> set[str]:
    step = subject.step
    assert step is not None
    found = {call.path for call, _ in softmaxes(step, "float32") + exponentials(step, "float32")}
    found |= {call.path for call in unscaled_attention(step, "float32")}
    found |= {
        call.path
        for call, _ in long_reductions(step, "float32")
        if not isinstance(call.layer, _FLOAT32_INSIDE)
    }
    return found


def _islands(subject: Subject) -> list[_Island]:
    """From each cast of half precision into a float32 layer, as far as float32 goes."""
    assert subject.step is not None
    islands: list[_Island] = []
    for operation, call in subject.step.owned:
        if not _is_cast(operation, HALF, ("float32",)) or not _computes_float32(call):
            continue
        found = _explored(subject, operation, call)
        for island in [each for each in islands if set(each.calls) & set(found.calls)]:
            islands.remove(island)
            found.calls = {**island.calls, **found.calls}
            found.entries |= island.entries
            found.exits |= island.exits
        islands.append(found)
    return islands


def _explored(subject: Subject, entry: tf.Operation, call: LayerCall) -> _Island:
    assert subject.step is not None
    island = _Island({call.path: call}, {id(entry): entry})
    queue, seen = [entry], {id(entry)}
    while queue:
        for output in queue.pop().outputs:
            for operation in output.consumers():
                owner = subject.step.owners.get(id(operation))
                if owner is None or id(operation) in seen:
                    continue  # the loss, a metric, or the backward pass
                seen.add(id(operation))
                if _is_cast(operation, ("float32",), HALF):
                    island.exits[id(operation)] = operation
                elif any(t.dtype == tf.float32 for t in operation.outputs):
                    if _computes_float32(owner):
                        island.calls.setdefault(owner.path, owner)
                    queue.append(operation)
    return island


def _computes_float32(call: LayerCall) -> bool:
    return call.layer is not None and call.layer.compute_dtype == "float32"


def _is_cast(operation: tf.Operation, source: tuple[str, ...], target: tuple[str, ...]) -> bool:
    return (
        operation.type == "Cast"
        and operation.inputs[0].dtype.name in source
        and operation.outputs[0].dtype.name in target
    )


def _bytes(casts: dict[int, tf.Operation]) -> int | None:
    """Bytes that the casts write."""
    total = 0
    for operation in casts.values():
        tensor = operation.outputs[0]
        elements = size_of(tensor)
        if elements is None:
            return None
        total += elements * tensor.dtype.size
    return total
