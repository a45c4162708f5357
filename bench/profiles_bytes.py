"""What a traced step says of itself before it runs: shapes, and the bytes that it has to move.

Products (of matrices, and convolutions) are bound by arithmetic; all other operations by memory.
So two figures are of interest: the bytes that these read and write as they stand, one by one, and
the fewest that they could, were all that lies between two products one operation: it reads what
products gave (once forward, once backward), the variables, and writes what products take. The
optimizer reads and writes each variable and its slots.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import tensorflow as tf

from bench.profiles_kinds import BACKWARD, FORWARD, PRODUCTS, kind

FREE = frozenset(
    (
        *("Reshape", "Identity", "IdentityN", "Squeeze", "ExpandDims", "StopGradient", "Const"),
        *("Placeholder", "Shape", "NoOp", "PreventGradient", "ReadVariableOp", "Size"),
        *("IteratorGetNext", "If", "StatelessIf", "While", "StatelessWhile", "PartitionedCall"),
        *("StatefulPartitionedCall", "BroadcastGradientArgs", "ZerosLike", "Fill", "Range"),
    )
)
"""Operations that move no data to speak of, or only call others."""
ALIASES = frozenset(("Reshape", "Identity", "Squeeze", "ExpandDims", "StopGradient"))
BRANCHES = ("then_branch", "else_branch")
TAKEN = 0.3
"""A branch was taken where more than this share of its operations ran: some are fused or folded."""
ARRAYS = {"ResourceApplyAdam": 3, "ResourceApplyMomentum": 2, "ResourceApplyKerasMomentum": 2}
"""A variable and its slots, each of which an update reads and writes."""


@dataclass
class Traced:
    """A traced step.

    Attributes:
        shapes: by a node's name, what goes into it and comes out, as 256x784 float32.
        moved: bytes that all but products read and write, one by one.
        least: the fewest that they could.
    """

    shapes: dict[str, str] = field(default_factory=dict)
    moved: int = 0
    least: int = 0


@dataclass
class _Tensor:
    size: int
    writer: str = ""
    readers: set[tuple[str, bool]] = field(default_factory=set)  # (class, in the backward pass)


def traced(graph: Any, ran: Container[str]) -> Traced:
    """Of a graph with the loop over steps, whose body counts once.

    Args:
        ran: names of nodes that a trace has, by which branches not taken are left out.
    """
    body = _body(graph)
    found = Traced()
    tensors: dict[Any, _Tensor] = {}
    alias: dict[Any, Any] = {}
    for op in _nodes(body, alias, ran):
        found.shapes.setdefault(op.name, shape(op))
        if op.type in FREE:
            continue
        sort = "product" if kind(op.type, op.name) in (PRODUCTS, FORWARD, BACKWARD) else "other"
        later = "gradient_tape" in op.name or "/" not in op.name or _updates(op)
        for tensor in op.inputs:
            _tensor(tensors, alias, tensor).readers.add((sort, later))
        for tensor in op.outputs:
            _tensor(tensors, alias, tensor).writer = sort
        if sort == "other":
            found.moved += sum(map(nbytes, (*op.inputs, *op.outputs)))
        slots = 2 * ARRAYS.get(op.type, 1) * nbytes(op.inputs[-1]) if _updates(op) else 0
        found.moved += slots
        found.least += slots
    found.least += sum(map(_least, tensors.values()))
    return found


def nbytes(tensor: Any) -> int:
    """0 of what has no known size, or is a handle."""
    if tensor.shape.rank is None or tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return int(prod(size or 0 for size in tensor.shape)) * int(tensor.dtype.size)


def shape(op: Any) -> str:
    """What goes in and what comes out, without handles and scalars."""
    ins = [text for tensor in op.inputs if (text := _shape(tensor))]
    out = next((text for tensor in op.outputs if (text := _shape(tensor))), "")
    dtype = next((tensor.dtype.name for tensor in (*op.outputs, *op.inputs) if _shape(tensor)), "")
    return f"{', '.join(ins)} -> {out or '()'} {dtype}".strip()


def _shape(tensor: Any) -> str:
    if tensor.dtype in (tf.resource, tf.variant) or not tensor.shape.rank:
        return ""
    return "x".join("?" if size is None else str(size) for size in tensor.shape)


def _least(tensor: _Tensor) -> int:
    others = {later for sort, later in tensor.readers if sort == "other"}
    if tensor.writer == "other":
        taken = any(sort == "product" for sort, _ in tensor.readers)
        return tensor.size if taken else 0
    return tensor.size * len(others)


def _updates(op: Any) -> bool:
    return op.type.startswith("ResourceApply")


def _tensor(tensors: dict[Any, _Tensor], alias: dict[Any, Any], tensor: Any) -> _Tensor:
    key = tensor.ref()
    while key in alias:
        key = alias[key]
    if key not in tensors:
        tensors[key] = _Tensor(nbytes(tensor))
    return tensors[key]


def _body(graph: Any) -> Any:
    loop = next(op for op in graph.get_operations() if op.type in ("While", "StatelessWhile"))
    return _called(graph, loop, "body")


def _called(graph: Any, op: Any, attribute: str) -> Any:
    return graph._get_function(op.get_attr(attribute).name).graph


def _nodes(graph: Any, alias: dict[Any, Any], ran: Container[str]) -> Iterator[Any]:
    """All operations of a step, with those of the functions and branches that it runs."""
    for op in graph.get_operations():
        if op.type in ALIASES and op.inputs:
            alias[op.outputs[0].ref()] = op.inputs[0].ref()
        yield op
        for inner, inputs in _inside(graph, op, ran):
            for own, given in zip(inner.inputs, inputs, strict=False):
                alias[own.ref()] = given.ref()
            for own, given in zip(op.outputs, inner.outputs, strict=False):
                alias[own.ref()] = given.ref()
            yield from _nodes(inner, alias, ran)


def _inside(graph: Any, op: Any, ran: Container[str]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """The graphs that an operation calls, and what they are given."""
    if op.type in ("PartitionedCall", "StatefulPartitionedCall"):
        yield _called(graph, op, "f"), op.inputs
    elif op.type in ("If", "StatelessIf"):
        for branch in BRANCHES:
            inner = _called(graph, op, branch)
            names = [each.name for each in inner.get_operations() if each.type not in FREE]
            if sum(name in ran for name in names) > TAKEN * len(names):
                yield inner, op.inputs[1:]
