"""Operations that need more range or precision than float16 has, found in a traced step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import prod

import keras
import tensorflow as tf

from mpt.inspection.recording import LayerCall, Recording

# From here on the next whole number of float16 is 2 away: a sum that has grown to 2048 times its
# terms' size no longer changes. TensorFlow's kernels sum over outer axes in the tensor's dtype.
LONG = 2048

_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_BY_AXES = frozenset({"Sum", "Mean", "Prod", "EuclideanNorm"})
_CONTRACTIONS = frozenset(
    {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "XlaDotV2"}
)
_SCALINGS = frozenset({"Mul", "RealDiv", "Div", "DivNoNan"})
_LAYOUT = frozenset({"Cast", "Reshape", "Transpose", "Identity", "ExpandDims", "Squeeze"})
_TOWARDS_SOFTMAX = (
    _LAYOUT
    | _SCALINGS
    | {"Add", "AddV2", "Sub", "Select", "SelectV2", "Maximum", "Minimum", "ClipByValue", "Tanh"}
)
_EXPONENTIAL = frozenset({"Exp", "Expm1", "Cumprod", "Prod", "Pow"})
_FARTHEST = 32  # operations between a product and its softmax

Found = list[tuple[LayerCall, int]]


def softmaxes(step: Recording, dtype: str) -> Found:
    """Calls that compute a softmax in `dtype`, each once, with the length of the longest."""

    def length(operation: tf.Operation, call: LayerCall) -> int | None:
        if operation.type in _SOFTMAX:
            return int(operation.inputs[0].shape[-1] or 0)
        # Keras computes one over several axes by hand.
        by_hand = isinstance(call.layer, keras.layers.Softmax) and operation.type == "Exp"
        return 0 if by_hand else None

    return _longest(step, dtype, length)


def long_reductions(step: Recording, dtype: str) -> Found:
    """Calls that sum, or multiply, more than `LONG` numbers in `dtype`, with how many."""

    def length(operation: tf.Operation, _call: LayerCall) -> int | None:
        size = _reduced(operation)
        return size if size is not None and size > LONG else None

    return _longest(step, dtype, length)


def exponentials(step: Recording, dtype: str) -> Found:
    """Calls that exponentiate, or multiply many numbers, in `dtype`."""
    return _longest(step, dtype, lambda operation, _: 0 if operation.type in _EXPONENTIAL else None)


def unscaled_attention(step: Recording, dtype: str) -> list[LayerCall]:
    """Calls that multiply two activations in `dtype`, scale the product, and take its softmax."""
    found: dict[str, LayerCall] = {}
    for operation, call in step.owned:
        if operation.type not in _CONTRACTIONS or operation.outputs[0].dtype.name != dtype:
            continue
        if call.path in found or any(_is_weight(tensor) for tensor in operation.inputs):
            continue
        if any(_reaches_softmax(scaled) for scaled in _scalings(operation)):
            found[call.path] = call
    return list(found.values())


def _longest(
    step: Recording, dtype: str, length: Callable[[tf.Operation, LayerCall], int | None]
) -> Found:
    found: dict[str, tuple[LayerCall, int]] = {}
    for operation, call in step.owned:
        if not operation.inputs or operation.inputs[0].dtype.name != dtype:
            continue
        size = length(operation, call)
        if size is not None:
            _, longest = found.get(call.path, (call, 0))
            found[call.path] = (call, max(size, longest))
    return list(found.values())


def _reduced(operation: tf.Operation) -> int | None:
    """How many numbers become one; None where the operation reduces nothing, or is not known."""
    shape = operation.inputs[0].shape if operation.inputs else None
    if shape is None or shape.rank is None:
        return None
    if operation.type == "L2Loss":
        return shape.num_elements()
    if operation.type not in _BY_AXES | {"Cumsum"}:
        return None
    axes = tf.get_static_value(operation.inputs[1])
    if axes is None:
        return None
    sizes = [shape[int(axis)] for axis in axes.reshape(-1)]
    return None if None in sizes else prod(sizes)


def _is_weight(tensor: tf.Tensor) -> bool:
    """Whether a tensor is a variable's value or a constant, as far as casts and reshapes show."""
    operation = tensor.op
    while operation.type in _LAYOUT and operation.inputs:
        operation = operation.inputs[0].op
    return operation.type in ("ReadVariableOp", "Const") or any(
        t.dtype == tf.resource for t in operation.inputs
    )


def _scalings(product: tf.Operation) -> Iterable[tf.Operation]:
    """The operations that multiply or divide the product by a single number other than 1."""
    queue = deque(product.outputs[0].consumers())
    while queue:
        operation = queue.popleft()
        if operation.type in _SCALINGS:
            other = [
                t
                for t in operation.inputs
                if t.shape.num_elements() == 1 and tf.get_static_value(t) != 1
            ]
            if other:
                yield operation
        elif operation.type in _LAYOUT:
            queue.extend(operation.outputs[0].consumers())


def _reaches_softmax(start: tf.Operation) -> bool:
    queue, seen = deque([(start, 0)]), {start.name}
    while queue:
        operation, distance = queue.popleft()
        if operation.type in _SOFTMAX or operation.type == "Exp":
            return True
        if operation.type not in _TOWARDS_SOFTMAX or distance == _FARTHEST:
            continue
        for output in operation.outputs:
            for following in output.consumers():
                if following.name not in seen:
                    seen.add(following.name)
                    queue.append((following, distance + 1))
    return False
