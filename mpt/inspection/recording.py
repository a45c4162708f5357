"""Which layer makes which operation of a traced graph.

A step is traced by `tf.function`, so that functional, subclassed and nested models are all seen;
nothing is computed. Each call of a layer opens a name scope of its own: XLA keeps the names, which
tell what a product in its HLO belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from mpt import precision
from mpt.precision.trace import graph_tensors

_SCOPE = "mpt_call_{}_"
_SCOPES = re.compile(r"mpt_call_(\d+)_")


@dataclass(eq=False)
class LayerCall:
    """One call of a layer, or of an operation of a functional model.

    Attributes:
        path: of the layer, as in the precision table; of an operation, its name below its model.
        known: whether the layer is among those that the model keeps track of.
        start, end: the operations of `graph` made inside the call are those from start to
            before end.
        inputs, outputs: its tensors, flat; inputs as they were given, before any cast.
        losses: what the layer itself added to the loss.
    """

    index: int
    operation: keras.Operation
    path: str
    known: bool
    parent: LayerCall | None
    graph: tf.Graph
    start: int = 0
    end: int = 0
    inputs: list[tf.Tensor] = field(default_factory=list)
    outputs: list[tf.Tensor] = field(default_factory=list)
    losses: list[tf.Tensor] = field(default_factory=list)

    @property
    def layer(self) -> keras.layers.Layer | None:
        """None for an operation of a functional model."""
        return self.operation if isinstance(self.operation, keras.layers.Layer) else None

    @property
    def in_loop(self) -> bool:
        """Whether the call stands in a loop's body, which is traced once however often it runs."""
        graph: Any = self.graph
        while graph is not None:
            if type(graph).__name__ == "WhileBodyFuncGraph":
                return True
            graph = getattr(graph, "outer_graph", None)
        return False


@contextmanager
def recorded(model: keras.Model) -> Iterator[list[LayerCall]]:
    """Note each call of a layer of `model` inside the block, in the order they start."""
    recorder = _Recorder({id(layer): path for path, layer in precision.walk(model)})
    classes = {
        cls
        for kind in [*(type(layer) for _, layer in precision.walk(model)), keras.Operation]
        for cls in kind.__mro__
        if issubclass(cls, keras.Operation) and "__call__" in vars(cls)
    }
    originals = {cls: vars(cls)["__call__"] for cls in classes}
    for cls, original in originals.items():
        cls.__call__ = recorder.around(original)
    try:
        yield recorder.calls
    finally:
        for cls, original in originals.items():
            cls.__call__ = original


class _Recorder:
    def __init__(self, paths: dict[int, str]):
        self.calls: list[LayerCall] = []
        self._paths = paths
        self._stack: list[LayerCall] = []

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`original`, a class's `__call__`, with a note of what is made inside it."""

        def noted(operation: Any, *args: Any, **kwargs: Any) -> Any:
            parent = self._stack[-1] if self._stack else None
            if parent is not None and parent.operation is operation:
                return original(operation, *args, **kwargs)  # a __call__ that called its parent's
            if not self._counts(operation, parent):
                return original(operation, *args, **kwargs)
            call = self._begin(operation, parent)
            call.inputs = graph_tensors((args, kwargs))
            self._stack.append(call)
            try:
                with tf.name_scope(_SCOPE.format(call.index)):
                    outputs = original(operation, *args, **kwargs)
            finally:
                self._stack.pop()
            call.end = call.graph.version
            call.outputs = graph_tensors(outputs)
            call.losses = [x for x in getattr(operation, "_losses", ()) if tf.is_tensor(x)]
            return outputs

        return noted

    def _counts(self, operation: Any, parent: LayerCall | None) -> bool:
        """Whether the call is of the model: its layers, and a functional model's operations."""
        if id(operation) in self._paths:
            return True
        if isinstance(operation, keras.layers.Layer):
            return parent is not None and not isinstance(operation, keras.layers.InputLayer)
        return parent is not None and isinstance(
            parent.operation, keras.src.models.Functional | keras.Sequential
        )

    def _begin(self, operation: Any, parent: LayerCall | None) -> LayerCall:
        known = id(operation) in self._paths
        path = self._paths.get(id(operation))
        if path is None:
            assert parent is not None
            path = operation.name if parent.parent is None else f"{parent.path}/{operation.name}"
        graph = tf.compat.v1.get_default_graph()
        call = LayerCall(len(self.calls), operation, path, known, parent, graph, graph.version)
        self.calls.append(call)
        return call


def innermost(name: str) -> int | None:
    """Index of the innermost call in the name of an operation; None where it has none."""
    found = _SCOPES.findall(name)
    return int(found[-1]) if found else None


@dataclass
class Recording:
    """A traced training step.

    Attributes:
        calls: of layers, parents before children.
        owned: every operation made inside a call, those in loops and functions too, with the
            innermost call that made it, in their order.
        half_metrics: custom metrics that get half precision: name, class and dtype.
        scaled: whether the step called `optimizer.scale_loss`.
    """

    calls: list[LayerCall]
    owned: list[tuple[tf.Operation, LayerCall]]
    half_metrics: list[tuple[str, str, str]]
    scaled: bool

    def __post_init__(self) -> None:
        self.owners = {id(operation): call for operation, call in self.owned}
        self.parents = {id(call.parent) for call in self.calls if call.parent is not None}

    def maker(self, tensor: tf.Tensor) -> LayerCall | None:
        """The innermost call that made `tensor`."""
        return self.owners.get(id(tensor.op))

    def is_leaf(self, call: LayerCall) -> bool:
        """Whether no other call was made inside it."""
        return id(call) not in self.parents

    def ended_first(self) -> list[LayerCall]:
        """The calls in the order in which they ended: children before parents."""
        order: list[LayerCall] = []
        unfinished: list[LayerCall] = []
        for call in self.calls:
            while unfinished and unfinished[-1] is not call.parent:
                order.append(unfinished.pop())
            unfinished.append(call)
        return order + unfinished[::-1]


def record_training(model: keras.Model, batch: Any) -> Recording:
    """Trace one training step of `model`, with its own `train_step`, and note what it makes.

    Args:
        model: built, compiled, with a built optimizer.
        batch: of the training data; only its shapes and dtypes count.

    Raises:
        Exception: what the model itself raises while it is traced.
    """
    spec = tf.nest.map_structure(tf.type_spec_from_value, batch)
    held: dict[str, Any] = {}

    def step(data: Any) -> tf.Tensor:
        held["graph"] = tf.compat.v1.get_default_graph()
        model.train_step(data)
        return tf.constant(0)

    half_metrics: list[tuple[str, str, str]] = []
    with (
        recorded(model) as calls,
        _optimizer_set_aside(model.optimizer) as scaled,
        _metrics_watched(model, half_metrics),
    ):
        traced(step, (spec,), calls)
    model._clear_losses()  # those of this step are tensors of the traced graph
    owned = list(_owned(held["graph"], calls))
    graphs = {id(held["graph"]), *(id(operation.graph) for operation, _ in owned)}
    # Keras also calls layers in scratch graphs, to know shapes: nothing there is computed.
    calls = [call for call in calls if id(call.graph) in graphs]
    return Recording(calls, owned, half_metrics, bool(scaled))


def traced(
    function: Callable[..., Any],
    specs: Sequence[Any],
    calls: list[LayerCall],
    *,
    jit: bool = False,
) -> Any:
    """Trace `function` with tf.functions inside layers opened, or, where that fails, as they are.

    What a tf.function has traced before runs none of its Python again, and so hides its layers.

    Args:
        specs: its arguments as `tf.TensorSpec`s; nested ones without `jit` only.
        calls: emptied before a second attempt.
        jit: return what gives the HLO instead.
    """
    eagerly = tf.config.functions_run_eagerly()
    try:
        tf.config.run_functions_eagerly(True)
        return _trace(function, specs, jit)
    except Exception:
        calls.clear()
    finally:
        tf.config.run_functions_eagerly(eagerly)
    return _trace(function, specs, jit)


def _trace(function: Callable[..., Any], specs: Sequence[Any], jit: bool) -> Any:
    wrapped = tf.function(function, autograph=False, jit_compile=jit or None)
    if jit:
        return wrapped.experimental_get_compiler_ir(*specs)(stage="hlo")
    return wrapped.get_concrete_function(*specs)


@contextmanager
def _optimizer_set_aside(optimizer: keras.Optimizer) -> Iterator[list[bool]]:
    """Trace a step without its update; gives a list that fills where the loss is scaled."""
    scaled: list[bool] = []

    def scale_loss(loss: Any) -> Any:
        scaled.append(True)
        return loss

    stand_ins = {"scale_loss": scale_loss, "apply": lambda *_, **__: None}
    for name, stand_in in stand_ins.items():
        optimizer.__dict__[name] = stand_in  # past Keras's tracking of attributes
    try:
        yield scaled
    finally:
        for name in stand_ins:
            del optimizer.__dict__[name]


@contextmanager
def _metrics_watched(model: keras.Model, found: list[tuple[str, str, str]]) -> Iterator[None]:
    """Note each metric of the user's own class that is given tensors in half precision."""
    watched = [m for m in model.metrics if not type(m).__module__.startswith("keras.")]

    def around(metric: keras.metrics.Metric) -> Callable[..., Any]:
        update = metric.update_state

        def update_state(*args: Any, **kwargs: Any) -> Any:
            dtypes = {
                t.dtype.name
                for t in graph_tensors((args, kwargs))
                if t.shape.rank is None or t.shape
            }
            for dtype in sorted(dtypes & {"float16", "bfloat16"}):
                entry = (metric.name, type(metric).__name__, dtype)
                if entry not in found:
                    found.append(entry)
            return update(*args, **kwargs)

        return update_state

    for metric in watched:
        metric.__dict__["update_state"] = around(metric)
    try:
        yield
    finally:
        for metric in watched:
            del metric.__dict__["update_state"]


def _owned(top: tf.Graph, calls: list[LayerCall]) -> Iterator[tuple[tf.Operation, LayerCall]]:
    """The operations made inside calls, through the graphs of loops, branches and functions."""
    by_graph: dict[int, list[LayerCall]] = {}
    for call in calls:
        by_graph.setdefault(id(call.graph), []).append(call)
    seen: set[int] = set()

    def visit(graph: tf.Graph, outer: LayerCall | None) -> Iterator[tuple[tf.Operation, LayerCall]]:
        if id(graph) in seen:
            return
        seen.add(id(graph))
        operations = graph.get_operations()
        owners = [outer] * len(operations)
        for call in by_graph.get(id(graph), ()):  # parents first: children take their part of it
            owners[call.start : call.end] = [call] * (call.end - call.start)
        for operation, owner in zip(operations, owners, strict=True):
            if owner is None:
                continue
            yield operation, owner
            for inner in _inner_graphs(graph, operation):
                yield from visit(inner, owner)

    yield from visit(top, None)


def _inner_graphs(graph: tf.Graph, operation: tf.Operation) -> list[tf.Graph]:
    """The graphs of the functions that `operation` calls."""
    names = []
    for attribute in operation.op_def.attr:
        if attribute.type == "func":
            names.append(operation.get_attr(attribute.name).name)
        elif attribute.type == "list(func)":
            names += [each.name for each in operation.get_attr(attribute.name)]
    found = []
    for name in names:
        function: Any = graph._get_function(name) if name else None
        inner = getattr(function, "graph", None)
        if inner is not None:
            found.append(inner)
    return found
