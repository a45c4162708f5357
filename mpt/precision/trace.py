"""A dry run of the forward pass, as a graph that knows which layer made each operation.

Keras's own graph exists for functional models only. This one is traced by `tf.function`, so it
sees subclassed models, raw operations and nested models alike; nothing is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from mpt.precision.layers import is_container, walk

# What makes a logit out of features; other operations only shape or combine them.
_CONTRACTIONS = frozenset(
    {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D", "Conv3D"}
    | {"Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNative", "XlaDotV2"}
)


@dataclass
class Call:
    """One call of a layer: the operations from `start` to before `end` were made inside it.

    A call inside a layer of Keras's own, or in a loop's or a branch's own graph, has no
    operations: start = end. `children` counts the calls inside this one that have some.
    `in_branch`: made in a graph of its own, which a loop's may run many times.
    """

    layer: keras.layers.Layer
    start: int = 0
    end: int = 0
    children: int = 0
    in_graph: bool = False
    in_branch: bool = False
    inputs: list[tf.Tensor] = field(default_factory=list)
    outputs: list[tf.Tensor] = field(default_factory=list)


@dataclass
class Trace:
    """The traced forward pass.

    Attributes:
        operations: of the graph, in the order they were made, which is topological.
        calls: of layers, parents before children; the first is the model's own.
        owners: per operation, the innermost call that made it, or None.
        inputs: the model's inputs, flat. outputs: its outputs, flat.
    """

    operations: list[tf.Operation]
    calls: list[Call]
    owners: list[Call | None]
    inputs: list[tf.Tensor]
    outputs: list[tf.Tensor]

    def __post_init__(self) -> None:
        self.index = {op.name: i for i, op in enumerate(self.operations)}

    def maker(self, tensor: tf.Tensor) -> Call | None:
        """The innermost call that made `tensor`; None for an input or what is outside the graph."""
        position = self.index.get(tensor.op.name)
        return None if position is None else self.owners[position]


def trace(model: keras.Model, inputs: Any) -> Trace:
    """Trace `model` in inference.

    Args:
        inputs: nested `tf.TensorSpec`s, batch first.

    Raises:
        NotImplementedError: the model has no `call`.
        Exception: what the model itself raises.
    """
    calls: list[Call] = []
    held: dict[str, Any] = {}
    arguments = {"training": False} if model._call_has_training_arg else {}

    def forward(x: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        held.update(graph=graph, inputs=x)
        with _recorded(model, graph, calls):
            held["outputs"] = model(x, **arguments)
        return held["outputs"]

    concrete = tf.function(forward, autograph=False).get_concrete_function(inputs)
    model._clear_losses()  # those of this call are tensors of the traced graph
    operations = concrete.graph.get_operations()
    owners: list[Call | None] = [None] * len(operations)
    for call in calls:
        owners[call.start : call.end] = [call] * (call.end - call.start)
    return Trace(
        operations,
        calls,
        owners,
        keras.tree.flatten(held["inputs"]),
        graph_tensors(held["outputs"]),
    )


def specs(inputs: Any) -> Any:
    """Nested `tf.TensorSpec`s of arrays, tensors or symbolic tensors."""
    return keras.tree.map_structure(lambda x: tf.TensorSpec(tuple(x.shape), x.dtype), inputs)


@contextmanager
def _recorded(model: keras.Model, graph: tf.Graph, calls: list[Call]) -> Iterator[None]:
    """Write down each call of a layer in `graph`."""
    stack: list[Call] = []

    def recording(original: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
            if stack and stack[-1].layer is layer:
                return original(layer, *args, **kwargs)  # a __call__ that called its parent's
            call = Call(layer, inputs=graph_tensors((args, kwargs)))
            calls.append(call)
            call.in_branch = tf.compat.v1.get_default_graph() is not graph
            if call.in_branch or any(_is_unit(each.layer) for each in stack):
                outputs = original(layer, *args, **kwargs)
            else:
                call.start, call.in_graph = graph.version, True
                if stack:
                    stack[-1].children += 1
                stack.append(call)
                outputs = original(layer, *args, **kwargs)
                stack.pop()
                call.end = graph.version
            call.outputs = graph_tensors(outputs)
            return outputs

        return recorded

    # Preprocessing layers override __call__, and cast there.
    classes = {
        cls
        for _, layer in walk(model)
        for cls in type(layer).__mro__
        if issubclass(cls, keras.layers.Layer) and "__call__" in vars(cls)
    }
    originals = {cls: vars(cls)["__call__"] for cls in classes}
    for cls, original in originals.items():
        cls.__call__ = recording(original)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for cls, original in originals.items():
            cls.__call__ = original  # type: ignore[method-assign]


def _is_unit(layer: keras.layers.Layer) -> bool:
    """Whether the layer is one of Keras's own, with what is in it: LSTM, MultiHeadAttention.

    Taken whole, it also saves whole: a `.keras` file has one policy for it and its children.
    """
    return not is_container(layer) and type(layer).__module__.startswith("keras.")


def graph_tensors(structure: Any) -> list[tf.Tensor]:
    """The tensors of a graph in a structure, in its order."""
    return [x for x in keras.tree.flatten(structure) if tf.is_tensor(x) and hasattr(x, "op")]


@dataclass
class Heads:
    """What makes a model's outputs.

    Attributes:
        layers: layers that compute them, from the output back to the weights, each wholly.
        hidden: layers that compute one from their own weights between other layers, where no
            policy of a layer can reach.
    """

    layers: list[keras.layers.Layer] = field(default_factory=list)
    hidden: list[keras.layers.Layer] = field(default_factory=list)


def heads(traced: Trace) -> Heads:
    """Walk back from each output to the first layer that has weights.

    A Softmax after a Dense takes the Dense along: logits computed in half precision would stay
    rounded. A merging layer (Add, Concatenate) takes what it merges along, but a second one in a
    row ends the walk, or a chain of residual additions would reach the whole network.
    """
    found = Heads()
    constant = _constants(traced)
    passing = _passing(traced)
    queue = deque((tensor, 0) for tensor in traced.outputs if tensor.dtype.is_floating)
    seen: set[int] = set()
    while queue:
        tensor, merges = queue.popleft()
        for layer in passing.get(tensor.name, ()):
            _add(found.layers, layer)
        position = traced.index[tensor.op.name]
        call = traced.owners[position]
        if position in seen or call is None:
            continue
        leaf = call.children == 0 and call is not traced.calls[0]
        region = range(call.start, call.end) if leaf else range(position, position + 1)
        sources = _sources(traced, region, constant)
        merges += len(sources) > 1
        operations = [traced.operations[i] for i in region]
        weights = any(_is_opaque(op) for op in operations)
        if merges > 1 and not weights:
            continue
        seen.update(region)
        if leaf:
            _add(found.layers, call.layer)
        elif weights or _contracts_weights(operations[0], traced, constant):
            weights = True
            _add(found.hidden, call.layer)
        if not weights:
            # Ways without a merge go first, so that each position is reached by its shortest.
            put = queue.append if len(sources) > 1 else queue.appendleft
            for source in sources:
                put((source, merges))
    return found


def _sources(traced: Trace, region: range, constant: list[bool]) -> list[tf.Tensor]:
    """What the operations of `region` take from outside, but for weights and constants."""
    taken = {
        tensor.name: tensor
        for position in region
        for tensor in traced.operations[position].inputs
        if (tensor.dtype.is_floating or tensor.dtype == tf.variant)
        and traced.index[tensor.op.name] not in region
        and not constant[traced.index[tensor.op.name]]
    }
    return list(taken.values())


def _passing(traced: Trace) -> dict[str, list[keras.layers.Layer]]:
    """Per tensor, layers that hand it on as it is, as Dropout does outside training."""
    passing: dict[str, list[keras.layers.Layer]] = {}
    for call in traced.calls[1:]:
        if call.children == 0 and call.in_graph:
            for tensor in call.outputs:
                if not call.start <= traced.index[tensor.op.name] < call.end:
                    passing.setdefault(tensor.name, []).append(call.layer)
    return passing


def _add(layers: list[keras.layers.Layer], layer: keras.layers.Layer) -> None:
    if all(layer is not each for each in layers):
        layers.append(layer)


def _is_opaque(operation: tf.Operation) -> bool:
    """Whether the operation reads a variable, itself or in a loop's or branch's own graph."""
    return any(t.dtype == tf.resource for t in operation.inputs)


def _contracts_weights(operation: tf.Operation, traced: Trace, constant: list[bool]) -> bool:
    return operation.type in _CONTRACTIONS and any(
        constant[traced.index[t.op.name]] for t in operation.inputs
    )


def _constants(traced: Trace) -> list[bool]:
    """Per operation, whether it depends on no input of the model: weights and constants."""
    inputs = {t.op.name for t in traced.inputs if tf.is_tensor(t)}
    constant: list[bool] = []
    for operation in traced.operations:
        constant.append(
            operation.name not in inputs
            and all(constant[traced.index[t.op.name]] for t in operation.inputs)
        )
    return constant


@dataclass(frozen=True)
class InputCast:
    """A cast that a layer makes of one of the model's inputs.

    Attributes:
        position: of the input, flat.
        layer: that casts.
        passed_on: whether only layers below it use what it cast, and each would cast it itself.
    """

    position: int
    layer: keras.layers.Layer
    dtype: str
    passed_on: bool


def input_casts(traced: Trace) -> list[InputCast]:
    """The casts of the model's floating inputs to other floating dtypes, in order."""
    found = []
    for position, tensor in enumerate(traced.inputs):
        if not tf.is_tensor(tensor) or not tensor.dtype.is_floating:
            continue
        for cast in tensor.consumers():
            call = traced.owners[traced.index[cast.name]] if cast.name in traced.index else None
            if call is None or cast.type != "Cast" or not cast.outputs[0].dtype.is_floating:
                continue
            users = [traced.owners[traced.index[op.name]] for op in cast.outputs[0].consumers()]
            passed_on = call.children > 0 and all(user is not call for user in users)
            passed_on = passed_on and all(cast.outputs[0] is not t for t in traced.outputs)
            found.append(InputCast(position, call.layer, cast.outputs[0].dtype.name, passed_on))
    return found
