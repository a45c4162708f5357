"""One training step, run by hand, with a tap on what goes into and out of every layer.

It is the model's own `train_step` that runs, eagerly, so that layers of functional, subclassed and
nested models are all seen, those in loops too, in the order in which they really run. An identity
with a gradient of its own stands at each layer's inputs and outputs: it passes tensors on
unchanged, and shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import keras
import tensorflow as tf

from mpt.numerics.state import restored
from mpt.precision import walk
from mpt.variables import is_overwritten

T = TypeVar("T")


@dataclass
class TappedCall(Generic[T]):
    """One call of a layer, or of an operation of a functional model.

    Lists hold the floating tensors only, flat, each reduced. A gradient is that of the scaled
    loss; None where none came.

    Attributes:
        path: of the layer, as in the precision table; of an operation, its name below its model.
        layer: None for an operation.
        repeat: how many calls of the same layer came before.
        parent: the call inside which this one was made; None for the outermost.
        losses: that the layer added by `add_loss` or an activity regularizer.
        logits: what Keras's cross-entropies take in place of the output of a softmax or sigmoid.
        backward_order: place among all calls by the arrival of the first gradient of an output
            (or of the logits); None where none came.
    """

    path: str
    layer: keras.layers.Layer | None
    repeat: int = 0
    parent: TappedCall[T] | None = None
    inputs: list[T] = field(default_factory=list)
    outputs: list[T] = field(default_factory=list)
    losses: list[T] = field(default_factory=list)
    logits: list[T] = field(default_factory=list)
    input_gradients: list[T | None] = field(default_factory=list)
    output_gradients: list[T | None] = field(default_factory=list)
    logit_gradients: list[T | None] = field(default_factory=list)
    backward_order: int | None = None


@dataclass
class TappedStep(Generic[T]):
    """What was seen of one step.

    Attributes:
        calls: in the order in which they ended, so that children come before their parents.
        loss: unscaled, as the optimizer got it; None where the step never scaled a loss.
        weight_gradients: per trainable variable of the model, by its name in `weight_names`,
            scaled; None where the step had none for it.
    """

    calls: list[TappedCall[T]] = field(default_factory=list)
    loss: T | None = None
    weight_gradients: dict[str, T | None] = field(default_factory=dict)


def tapped_step(
    model: keras.Model, batch: Any, *, scale: float, reduce: Callable[[tf.Tensor], T]
) -> TappedStep[T]:
    """Run `model.train_step` on `batch` and look at every tensor between its layers.

    No weight changes: the gradients are taken where the optimizer would apply them, and every
    variable has its former value afterwards.

    Args:
        model: built, compiled, with a built optimizer.
        batch: what the training data gives.
        scale: factor of the loss.
        reduce: what to keep of a tensor of any floating dtype and shape; called at once, so that
            nothing is held in memory but what it returns. `tf.IndexedSlices` come as they are.

    Raises:
        Exception: what the model itself raises.
    """
    step: TappedStep[T] = TappedStep()
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # a train_step that is a tf.function shows its layers too
    try:
        with (
            restored(model),
            _optimizer_tapped(model, step, scale, reduce),
            _calls_tapped(model, step, reduce),
        ):
            model.train_step(batch)
    finally:
        tf.config.run_functions_eagerly(eagerly)
    return step


def weight_names(model: keras.Model) -> dict[str, tuple[str, keras.Variable]]:
    """Each trained variable by a name of its own, with the path of the layer that holds it.

    The name is the layer's path and the variable's name. Keras's `variable.path` will not do: two
    nested models, each with a layer "dense", have two variables "dense/kernel".
    """
    owners = {
        id(variable): path for path, layer in walk(model) for variable in layer._trainable_variables
    }
    names: dict[str, tuple[str, keras.Variable]] = {}
    for variable in model.trainable_variables:
        if is_overwritten(variable):
            continue
        path = owners.get(id(variable), model.name)
        name, repeat = f"{path}/{variable.name}", 1
        while name in names:
            repeat += 1
            name = f"{path}/{variable.name}#{repeat}"
        names[name] = (path, variable)
    return names


@contextmanager
def _optimizer_tapped(
    model: keras.Model, step: TappedStep[T], scale: float, reduce: Callable[[tf.Tensor], T]
) -> Iterator[None]:
    """Stand in for what the optimizer does with the loss and with the gradients."""
    optimizer = model.optimizer
    names = {id(variable): name for name, (_, variable) in weight_names(model).items()}

    def scale_loss(loss: tf.Tensor) -> tf.Tensor:
        loss = tf.convert_to_tensor(loss)
        step.loss = reduce(loss)
        wide = loss if loss.dtype == tf.float64 else tf.cast(loss, tf.float32)
        return wide * tf.cast(scale, wide.dtype)

    def apply(gradients: Any, variables: Any = None) -> None:
        variables = variables or model.trainable_variables
        for gradient, variable in zip(gradients, variables, strict=True):
            if is_overwritten(variable):
                continue
            value = None if gradient is None else reduce(gradient)
            step.weight_gradients[names.get(id(variable), variable.path)] = value

    stand_ins = {"scale_loss": scale_loss, "apply": apply}
    for name, stand_in in stand_ins.items():
        optimizer.__dict__[name] = stand_in  # past Keras's tracking of attributes
    try:
        yield
    finally:
        for name in stand_ins:
            del optimizer.__dict__[name]


@contextmanager
def _calls_tapped(
    model: keras.Model, step: TappedStep[T], reduce: Callable[[tf.Tensor], T]
) -> Iterator[None]:
    """Replace `__call__` of every class of layer in the model, and of Keras's operations."""
    paths = {id(layer): path for path, layer in walk(model)}
    taps = _Taps(step, paths, reduce)
    layers = [type(layer) for _, layer in walk(model)]
    classes = {
        cls
        for kind in [*layers, keras.Operation]
        for cls in kind.__mro__
        if issubclass(cls, keras.Operation) and "__call__" in vars(cls)
    }
    originals = {cls: vars(cls)["__call__"] for cls in classes}
    for cls, original in originals.items():
        cls.__call__ = taps.around(original)
    try:
        yield
    finally:
        for cls, original in originals.items():
            cls.__call__ = original


class _Taps(Generic[T]):
    """The taps of one step, and where in the model it is."""

    def __init__(
        self, step: TappedStep[T], paths: dict[int, str], reduce: Callable[[tf.Tensor], T]
    ):
        self._step = step
        self._paths = paths
        self._reduce = reduce
        self._stack: list[tuple[Any, TappedCall[T]]] = []
        self._repeats: dict[int, int] = {}
        self._arrivals = 0

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`original`, a class's `__call__`, with taps before and after it."""

        def tapped(operation: Any, *args: Any, **kwargs: Any) -> Any:
            within = self._stack[-1][0] if self._stack else None
            if within is operation or not self._is_of_model(operation):
                # A __call__ that calls its parent's, or a metric's or a loss's own operation.
                return original(operation, *args, **kwargs)
            call = self._begin(operation)
            args, kwargs = self._tap((args, kwargs), call.inputs, call.input_gradients, None)
            self._stack.append((operation, call))
            try:
                with _compiled_where_it_must_be(operation):
                    outputs = original(operation, *args, **kwargs)
            finally:
                self._stack.pop()
            call.losses = [self._reduce(loss) for loss in getattr(operation, "_losses", ())]
            outputs = self._tap(outputs, call.outputs, call.output_gradients, call)
            self._step.calls.append(call)
            return outputs

        return tapped

    def _is_of_model(self, operation: Any) -> bool:
        return id(operation) in self._paths or bool(self._stack)

    def _begin(self, operation: Any) -> TappedCall[T]:
        parent = self._stack[-1][1] if self._stack else None
        repeat = self._repeats.get(id(operation), 0)
        self._repeats[id(operation)] = repeat + 1
        path = self._paths.get(id(operation))
        if path is None:
            assert parent is not None
            path = operation.name if parent.parent is None else f"{parent.path}/{operation.name}"
        layer = operation if isinstance(operation, keras.layers.Layer) else None
        return TappedCall(path, layer, repeat, parent)

    def _tap(
        self,
        structure: Any,
        values: list[T],
        gradients: list[T | None],
        ending: TappedCall[T] | None,
    ) -> Any:
        """`structure` with a tap on each floating tensor; `ending` is the call it comes out of."""

        def tap(tensor: Any) -> Any:
            if not _is_floating(tensor):
                return tensor
            shown = self._shown(tensor, values, gradients, ending)
            mask = getattr(tensor, "_keras_mask", None)
            if mask is not None:
                shown._keras_mask = mask
            logits = getattr(tensor, "_keras_logits", None)
            if logits is not None:
                if ending is not None:
                    logits = self._shown(logits, ending.logits, ending.logit_gradients, ending)
                shown._keras_logits = logits
            return shown

        return keras.tree.map_structure(tap, structure)

    def _shown(
        self,
        tensor: tf.Tensor,
        values: list[T],
        gradients: list[T | None],
        ending: TappedCall[T] | None,
    ) -> tf.Tensor:
        place = len(values)
        values.append(self._reduce(tensor))
        gradients.append(None)

        @tf.custom_gradient
        def identity(x: tf.Tensor) -> Any:
            def backward(gradient: tf.Tensor) -> tf.Tensor:
                gradients[place] = self._reduce(gradient)
                if ending is not None and ending.backward_order is None:
                    ending.backward_order = self._arrivals
                    self._arrivals += 1
                return gradient

            return tf.identity(x), backward

        return identity(tensor)


@contextmanager
def _compiled_where_it_must_be(operation: Any) -> Iterator[None]:
    """Leave a grouped convolution its compiled function: the CPU's kernel has no gradient."""
    eagerly = tf.config.functions_run_eagerly()
    if getattr(operation, "groups", 1) == 1 or not hasattr(operation, "kernel_size"):
        yield
        return
    tf.config.run_functions_eagerly(False)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


def _is_floating(tensor: Any) -> bool:
    return tf.is_tensor(tensor) and isinstance(tensor, tf.Tensor) and tensor.dtype.is_floating
