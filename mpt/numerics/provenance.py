"""Where in a step a number first was not finite: in which layer, going forward or back.

Both searches read one tapped step. Going forward, the first call to end with anything non-finite
is looked at: if its inputs were finite it is at fault itself; if not, what is at fault is the call
around it, in operations of its own before it made the inner call. Going back, the same holds with
the order in which gradients arrived, and with gradients of a layer's own weights too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from mpt.numerics.tap import TappedCall, TappedStep, weight_names
from mpt.precision import is_container


@dataclass(frozen=True)
class Extent:
    """What is kept of a tensor.

    Attributes:
        largest: largest finite magnitude; 0 where there is none.
        nan: whether it holds NaN; what is non-finite without it is infinite.
    """

    finite: bool
    largest: float
    nan: bool
    dtype: str


Call = TappedCall[Extent]
Step = TappedStep[Extent]


@dataclass(frozen=True)
class Fault:
    """Where a step first was not finite.

    Attributes:
        direction: "forward", "loss" or "backward"; "input" where the outermost call already got
            numbers that were not finite.
        call: the layer or operation at fault; None for the loss, and for what precedes the model.
        beside: the inner call before which (forward) or after which (backward) the operations of
            `call` itself are at fault; None: `call` as such is.
        largest: largest finite magnitude among what went in: inputs, or gradients of outputs.
        nan: whether NaN came out, rather than infinity only.
    """

    direction: str
    call: Call | None
    largest: float = 0.0
    nan: bool = False
    beside: Call | None = None


def extent(tensor: tf.Tensor | tf.IndexedSlices) -> Extent:
    """The `reduce` of a tapped step that `locate` reads; for tensors of any float dtype."""
    values = tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
    wide = tf.cast(values, tf.float64 if values.dtype == tf.float64 else tf.float32)
    finite = tf.math.is_finite(wide)
    largest = tf.reduce_max(tf.where(finite, tf.abs(wide), 0))
    nan = tf.reduce_any(tf.math.is_nan(wide))
    return Extent(
        bool(tf.reduce_all(finite)), max(0.0, float(largest)), bool(nan), values.dtype.name
    )


def is_finite(step: Step) -> bool:
    """Whether the step's loss and all gradients of its weights are finite."""
    gradients = [value for value in step.weight_gradients.values() if value is not None]
    return all(value.finite for value in [*gradients, *([step.loss] if step.loss else [])])


def locate(model: keras.Model, step: Step, reference: Step | None = None) -> Fault | None:
    """The first fault of a step; None where all of it is finite.

    Args:
        step: tapped with `extent`.
        reference: the same step in a wider dtype, where that came out finite: what is not finite
            there either does no harm, such as a mask of minus infinity.
    """
    if reference is not None and [c.path for c in reference.calls] != [c.path for c in step.calls]:
        reference = None  # the model takes another way in another dtype
    if is_finite(step):
        return None
    forward = _forward(step, reference)
    if step.loss is None or step.loss.finite:
        # What is not finite going forward, and left no trace in the loss, may be meant so.
        backward = _backward(model, step)
        if forward is None or (backward is not None and not _was_bad(backward.call)):
            return backward
    if forward is not None:
        return forward
    assert step.loss is not None
    outermost = [call for call in step.calls if call.parent is None]
    return Fault("loss", None, _largest(v for c in outermost for v in c.outputs), step.loss.nan)


def _forward(step: Step, reference: Step | None) -> Fault | None:
    references: Sequence[Call | None] = reference.calls if reference else [None] * len(step.calls)
    gets, gives = set(), set()  # ids of calls that got, or gave, something not finite
    for call, other in zip(step.calls, references, strict=True):
        if _any_bad(call.inputs, other.inputs if other else None):
            gets.add(id(call))
        if _any_bad(_out_of(call), _out_of(other) if other else None):
            gives.add(id(call))
    for place, call in enumerate(step.calls):
        if id(call) in gets:
            while call.parent is not None and id(call.parent) in gets:
                call = call.parent
            return _before(call, step.calls[:place])
        if id(call) in gives:
            nan = any(value.nan for value in _out_of(call))
            return Fault("forward", call, _largest(call.inputs), nan)
    return None


def _before(call: Call, ended: Sequence[Call]) -> Fault:
    """The fault of what computed the inputs of `call` outside of all inner calls."""
    siblings = [value for c in ended if c.parent is call.parent for value in c.outputs]
    nan = any(value.nan for value in call.inputs)
    if call.parent is None and not siblings:
        return Fault("input", None, _largest(call.inputs), nan, beside=call)
    inputs = call.parent.inputs if call.parent is not None else []
    return Fault("forward", call.parent, _largest([*inputs, *siblings]), nan, beside=call)


def _backward(model: keras.Model, step: Step) -> Fault | None:
    weights: dict[str, list[Extent | None]] = defaultdict(list)
    for name, (path, _) in weight_names(model).items():
        weights[path].append(step.weight_gradients.get(name))
    arrived = sorted(
        (call for call in step.calls if call.backward_order is not None),
        key=lambda call: call.backward_order or 0,
    )
    gives = {id(call) for call in arrived if _any_bad(call.input_gradients)}
    gives |= {id(c) for c in arrived if c.layer is not None and _any_bad(weights[c.path])}
    gets = {id(call) for call in arrived if _any_bad(_into(call))}
    within = {
        id(around) for call in arrived if id(call) in gives | gets for around in _around(call)
    }
    for place, call in enumerate(arrived):
        if id(call) in gets:
            return _after(call, arrived[:place], arrived[place:])
        if id(call) in gives and id(call) not in within:
            given = [*call.input_gradients, *(weights[call.path] if call.layer else [])]
            nan = any(value.nan for value in given if value is not None)
            return Fault("backward", call, _largest(_into(call)), nan)
    return None


def _after(call: Call, before: Sequence[Call], rest: Sequence[Call]) -> Fault:
    """The fault of what computed the gradient of the outputs of `call` outside of inner calls."""
    nan = any(value.nan for value in _into(call) if value is not None)
    if call.parent is None:  # the loss's gradient: name the innermost layer that it enters first
        bad = [c for c in rest if _any_bad(_into(c))]
        inner = [c for c in bad if any(around is call for around in _around(c))]
        outer = {id(around) for c in inner for around in _around(c)}
        call = next((c for c in inner if id(c) not in outer), call)
        return Fault("backward", call, _largest(_into(call)), nan)
    siblings = [g for c in before if c.parent is call.parent for g in c.input_gradients]
    largest = _largest([*_into(call.parent), *siblings])
    if call.parent.layer is not None and is_container(call.parent.layer):
        return Fault("backward", call, largest, nan)
    return Fault("backward", call.parent, largest, nan, beside=call)


def _out_of(call: Call) -> list[Extent]:
    """What a call gives going forward."""
    return [*call.outputs, *call.logits, *call.losses]


def _into(call: Call) -> list[Extent | None]:
    """The gradients that come to a call."""
    return [*call.output_gradients, *call.logit_gradients]


def _around(call: Call) -> list[Call]:
    """The calls inside which it was made, the innermost first."""
    found = []
    while call.parent is not None:
        call = call.parent
        found.append(call)
    return found


def _was_bad(call: Call | None) -> bool:
    """Whether anything that a call got or gave going forward was not finite."""
    return call is not None and _any_bad([*call.inputs, *call.outputs, *call.logits])


def _any_bad(
    values: Sequence[Extent | None], reference: Sequence[Extent | None] | None = None
) -> bool:
    """Whether any value is not finite that is so in the reference."""
    if reference is None or len(reference) != len(values):
        return any(value is not None and not value.finite for value in values)
    return any(
        value is not None and not value.finite and (other is None or other.finite)
        for value, other in zip(values, reference, strict=True)
    )


def _largest(values: Iterable[Extent | None]) -> float:
    return max((value.largest for value in values if value is not None), default=0.0)
