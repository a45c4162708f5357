"""One training step on one batch, as tensors on the host, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.layers.preprocessing.image_preprocessing import base_image_preprocessing_layer

from mpt.errors import ConfigurationError
from mpt.numerics import TappedCall, tapped_step, weight_names
from mpt.precision import computing_in, is_container, walk
from mpt.probing.exponents import Array

# Their `call` takes `training`, and draws random numbers where it is true.
_RANDOM = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    base_image_preprocessing_layer.BaseImagePreprocessingLayer,
)
_RATES = ("dropout", "recurrent_dropout")  # of recurrent cells, which draw in `call` itself


@dataclass
class Seen:
    """What one layer, or one operation of a functional model, showed in one step.

    Lists are over all its calls, flat; None stands where no gradient came.

    Attributes:
        path: of the layer.
        layer: None for an operation.
        movable: precision.overrides can name it alone: it is no operation, not the whole model, and
            does something itself.
        innermost: no call of another layer was made inside.
        inputs, outputs: as they came and went.
        input_gradients: scaled.
        activation_gradients: of the outputs, or of the logits that stand for them, scaled.
        weight_gradients: scaled.
        arrival: place of its first output gradient among all; None where none came.
    """

    path: str
    layer: keras.layers.Layer | None
    movable: bool = False
    innermost: bool = True
    inputs: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    input_gradients: list[Array | None] = field(default_factory=list)
    activation_gradients: list[Array | None] = field(default_factory=list)
    weight_gradients: list[Array | None] = field(default_factory=list)
    arrival: int | None = None


@dataclass
class Observation:
    """One step.

    Attributes:
        layers: by path, in the order in which their first calls ended.
        uncalled: paths of layers with weights that the step did not call as layers.
        loss: unscaled.
    """

    layers: dict[str, Seen]
    loss: float
    uncalled: list[str] = field(default_factory=list)


def observe(model: keras.Model, batch: Any, *, scale: float) -> Observation:
    """Run one step on `batch` with the loss times `scale`; no variable changes.

    The arrays are those of the tensors: a tensor that goes from layer to layer is held once.

    Raises:
        ConfigurationError: the model's own train_step never scales its loss.
    """
    step = tapped_step(model, batch, scale=scale, reduce=_on_host)
    if step.loss is None:
        raise ConfigurationError(
            "The model's train_step never calls self.optimizer.scale_loss(loss).",
            where="model",
            remedy="call loss = self.optimizer.scale_loss(loss) inside the gradient tape",
        )
    by_path = dict(walk(model))
    layers: dict[str, Seen] = {}

    def of(path: str, layer: keras.layers.Layer | None) -> Seen:
        if path not in layers:
            layers[path] = Seen(path, layer, movable=layer is not None and layer is not model)
        return layers[path]

    calls = [call for call in step.calls if _is_own(call, by_path)]
    parents = {id(call.parent) for call in calls}
    for call in calls:
        seen = of(call.path, call.layer)
        _add_call(seen, call)
        seen.innermost &= id(call) not in parents
    for name, (path, _) in weight_names(model).items():
        of(path, by_path.get(path)).weight_gradients.append(step.weight_gradients.get(name))
    called = {call.path for call in step.calls}
    uncalled = [
        path
        for path, layer in by_path.items()
        if path not in called and (layer._trainable_variables or not called)
    ]
    return Observation(layers, float(step.loss), uncalled)


def _is_own(call: TappedCall[Array], by_path: dict[str, keras.layers.Layer]) -> bool:
    """Whether the call does something, and under the same name in every step.

    Not so a model that only passes tensors between its layers, where they are seen, and an
    operation or a layer that another makes anew in each of its calls.
    """
    if call.layer is None:
        parent = call.parent and call.parent.layer
        return parent is not None and is_container(parent)
    return by_path.get(call.path) is call.layer and not is_container(call.layer)


def _add_call(seen: Seen, call: TappedCall[Array]) -> None:
    seen.inputs += call.inputs
    seen.outputs += call.outputs
    seen.input_gradients += call.input_gradients
    seen.activation_gradients += [*call.output_gradients, *call.logit_gradients]
    arrivals = [a for a in (seen.arrival, call.backward_order) if a is not None]
    seen.arrival = min(arrivals, default=None)


def _on_host(tensor: tf.Tensor | tf.IndexedSlices) -> Array:
    """The tensor's memory itself where it lies on the host, else a copy."""
    return np.asarray(tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor)


@contextmanager
def in_reference(model: keras.Model, dtype: str) -> Iterator[None]:
    """Everything in `dtype`: layers, and the variables that are narrower, for their gradients."""
    with computing_in(model, dtype), _wide_variables(model, dtype):
        yield


@contextmanager
def _wide_variables(model: keras.Model, dtype: str) -> Iterator[None]:
    """Variables narrower than `dtype` hold the same numbers in it.

    Else their gradients would be rounded to the narrow dtype at the end of a wide backward pass.
    """
    size = tf.as_dtype(dtype).size
    narrow = [
        variable
        for variable in {id(v): v for v in model.variables}.values()
        if keras.backend.is_float_dtype(variable.dtype) and tf.as_dtype(variable.dtype).size < size
    ]
    before = [(variable._dtype, variable._value) for variable in narrow]
    try:
        for variable in narrow:
            value = variable._value
            variable._dtype = dtype
            variable._initialize(tf.cast(value, dtype))
        yield
    finally:
        for variable, (own, value) in zip(narrow, before, strict=True):
            variable._dtype, variable._value = own, value


@contextmanager
def without_noise(model: keras.Model) -> Iterator[list[str]]:
    """Dropout, noise and random augmentation are off: what they draw depends on the dtype.

    Yields:
        Paths of the layers that were quieted.
    """
    quieted = []
    with ExitStack() as stack:
        for path, layer in walk(model):
            if isinstance(layer, _RANDOM):
                stack.enter_context(_instead(layer, "call", _at_inference(layer)))
                quieted.append(path)
            rates = _rates(layer)
            for name in rates:
                stack.enter_context(_instead(layer, name, 0.0))
            if rates:
                quieted.append(path)
        yield quieted


def draws_on_its_own(model: keras.Model) -> list[str]:
    """Paths of layers, not known to `without_noise`, that hold a random seed of their own."""
    return [
        path
        for path, layer in walk(model)
        if layer._seed_generators and not isinstance(layer, _RANDOM) and not _rates(layer)
    ]


def _rates(layer: keras.layers.Layer) -> list[str]:
    """Which of `_RATES` the layer has, as numbers above 0."""
    found = {name: vars(layer).get(name) for name in _RATES}
    return [name for name, rate in found.items() if isinstance(rate, float | int) and rate > 0]


def _at_inference(layer: keras.layers.Layer) -> Any:
    call = layer.call

    def quiet(*args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        return call(*args, training=False, **kwargs)

    return quiet


@contextmanager
def _instead(layer: keras.layers.Layer, name: str, value: Any) -> Iterator[None]:
    """Set an attribute past Keras's tracking of them, and take that back."""
    absent = object()
    before = vars(layer).get(name, absent)
    layer.__dict__[name] = value
    try:
        yield
    finally:
        if before is absent:
            del layer.__dict__[name]
        else:
            layer.__dict__[name] = before
