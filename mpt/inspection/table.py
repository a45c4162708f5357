"""One row a layer, nested ones too, and a row for each operation of a functional model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mpt import precision
from mpt.inspection.opaque import OWN_WEIGHTS, Opaque
from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject, new_outputs, own_variables, size_of, tensor_key
from mpt.variables import parameters


@dataclass
class Row:
    """What is known of one layer; None is "not measured", or for an operation "has none".

    Attributes:
        kind: "layer" or "operation".
        depth: of nesting; the model has 0.
        output_dtype: several are joined by "+".
        output_shape: of each output at this batch; a size that is not known is None.
        parameters: of the layer itself, without those of the layers inside it, as all that
            follows.
        forward_flops: on one example, in inference.
        activation_bytes: of the outputs that it makes at this batch, in one training step, all
            its calls together.
        source: of its policy: global, override, head, layer, or fused: global, and computed by
            the fused kernel; empty for an operation.
        fused: whether it trains by the fused BatchNormalization kernel.
        quantization: float8, where its products are in that; None elsewhere.
        calls: in one training step; None where the step could not be traced.
    """

    path: str
    name: str
    kind: str
    depth: int
    class_name: str
    variable_dtype: str | None
    compute_dtype: str | None
    output_dtype: str | None
    output_shape: list[list[int | None]] | None
    parameters: int | None
    forward_flops: float | None
    activation_bytes: int | None
    source: str
    fused: bool
    quantization: str | None
    calls: int | None

    def as_json(self) -> dict[str, Any]:
        """The row under the keys of `--json`."""
        return {"class" if key == "class_name" else key: v for key, v in vars(self).items()}


def rows(subject: Subject, opaque: Sequence[Opaque]) -> list[Row]:
    """The rows, parents first, operations behind the layer that was called before them.

    Args:
        opaque: what cannot be looked into: its numbers are not measured.
    """
    unmeasured = frozenset(part.path for part in opaque if OWN_WEIGHTS in part.missing)
    hidden = frozenset(path for part in opaque for path in part.hides)
    activations = _activations(subject)
    own = own_variables(subject.model)
    layers = [
        _layer_row(subject, row, layer, own, activations, unmeasured, hidden)
        for row, (_, layer) in zip(
            precision.table(subject.model), precision.walk(subject.model), strict=True
        )
    ]
    return _with_operations(subject, layers, activations)


def _activations(subject: Subject) -> dict[str, int | None]:
    """Per path, bytes of the outputs; a tensor that a child made is the child's."""
    found: dict[str, int | None] = {}
    if subject.step is None:
        return found
    counted: set[str] = set()
    for call in subject.step.ended_first():
        total = found.get(call.path, 0)
        for tensor in new_outputs(call):
            if tensor_key(tensor) in counted:
                continue
            counted.add(tensor_key(tensor))
            size = size_of(tensor)
            total = None if size is None or total is None else total + size * tensor.dtype.size
        found[call.path] = total
    return found


def _layer_row(
    subject: Subject,
    row: dict[str, Any],
    layer: keras.layers.Layer,
    own: dict[int, list[keras.Variable]],
    activations: dict[str, int | None],
    unmeasured: frozenset[str],
    hidden: frozenset[str],
) -> Row:
    path = row["path"]
    calls = subject.calls_of(path)
    fused = path in subject.fused
    known = layer.built and path not in unmeasured
    return Row(
        path=path,
        name=layer.name,
        kind="layer",
        depth=0 if layer is subject.model else path.count("/") + 1,
        class_name=row["class"],
        variable_dtype=row["variable_dtype"],
        compute_dtype=row["compute_dtype"],
        **_output(calls),
        parameters=parameters(own[id(layer)]) if known else None,
        forward_flops=None if path in hidden else subject.flops.of(path),
        activation_bytes=activations.get(path) if calls else None,
        source="fused" if fused and row["source"] == "global" else row["source"],
        fused=fused,
        quantization=row.get("quantization"),
        calls=None if subject.step is None or path in hidden else len(calls),
    )


def _output(calls: list[LayerCall]) -> dict[str, Any]:
    """Dtype and shape of what the first call gives."""
    tensors: list[tf.Tensor] = calls[0].outputs if calls else []
    if not tensors:
        return {"output_dtype": None, "output_shape": None}
    dtypes = dict.fromkeys(tensor.dtype.name for tensor in tensors)
    shapes = [t.shape.as_list() if t.shape.rank is not None else [None] for t in tensors]
    return {"output_dtype": "+".join(dtypes), "output_shape": shapes}


def _with_operations(
    subject: Subject, layers: list[Row], activations: dict[str, int | None]
) -> list[Row]:
    """`layers`, and a row for all else that was called: operations, and untracked layers."""
    known = {row.path for row in layers}
    placed = list(layers)
    before: dict[int, str] = {}  # per parent, the path of its last call
    for call in subject.step.calls if subject.step is not None else ():
        if call.parent is None:
            continue
        if call.path not in known:
            known.add(call.path)
            after = before.get(id(call.parent), call.parent.path)
            placed.insert(_end_of(placed, after), _other_row(subject, call, activations))
        before[id(call.parent)] = call.path
    return placed


def _end_of(placed: list[Row], path: str) -> int:
    """The place behind the row of `path` and behind what is inside it."""
    place = next((i for i, row in enumerate(placed) if row.path == path), len(placed) - 1)
    depth = placed[place].depth
    place += 1
    if depth:
        while place < len(placed) and placed[place].depth > depth:
            place += 1
    return place


def _other_row(subject: Subject, call: LayerCall, activations: dict[str, int | None]) -> Row:
    layer = call.layer
    assert call.parent is not None
    return Row(
        path=call.path,
        name=call.operation.name,
        kind="operation" if layer is None else "layer",
        depth=call.path.count("/") + 1,
        class_name=type(call.operation).__name__,
        variable_dtype=None if layer is None else layer.variable_dtype,
        compute_dtype=None if layer is None else layer.compute_dtype,
        **_output([call]),
        parameters=0 if layer is None else None,
        forward_flops=subject.flops.of(call.path),
        activation_bytes=activations.get(call.path),
        source="" if layer is None else "layer",
        fused=False,
        quantization=None if layer is None else layer.quantization_mode,
        calls=len(subject.calls_of(call.path)),
    )
