"""What to try against a fault; tried out on the captured step where that can be done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from mpt.loss_scale import LossScaleOptimizer
from mpt.numerics.provenance import Fault, Step, is_finite, locate
from mpt.numerics.replay import Replay
from mpt.numerics.tap import weight_names
from mpt.precision import walk
from mpt.report.numbers import number, power_of_two
from mpt.rule_text import IN_FLOAT32_BY_HAND, as_override, float32_rule
from mpt.schema import HALF

MOST_LAYERS = 4  # more of them in float32 are for `mpt bisect` to find
# Beyond these, numbers are those of a run that diverges rather than of a model that trains.
LARGE_ACTIVATION = 1e5
LARGE_GRADIENT = 1e3
HEADROOM_BITS = 2  # between the largest gradient and the dtype's end, at a scale that is named

Overrides = Sequence[Mapping[str, Any]]


def against_forward(
    replay: Replay, fault: Fault, overrides: Overrides, *, float32_finite: bool
) -> str:
    """What to try where numbers were lost going forward.

    Args:
        overrides: the user's precision.overrides, which stay in front of what is added.
        float32_finite: the step is finite in float32.
    """
    if not float32_finite:
        safe = "make the operation safe: exp of a large number, log of or division by 0"
        slower = (
            "lower optimizer.learning_rate, or bound the gradients by optimizer.global_clipnorm"
        )
        first, second = (slower, safe) if fault.largest > LARGE_ACTIVATION else (safe, slower)
        return f"{first}; or {second}"
    call = fault.call
    dtype = dtype_of(fault)
    wider = ", or take precision.policy=mixed_bfloat16" if dtype == "float16" else ""
    if call is None or call.layer in (None, replay.model) or call.layer.compute_dtype not in HALF:
        return f"{IN_FLOAT32_BY_HAND}{wider}"
    paths, enough = _layers_to_widen(replay, fault)
    every = [path for path, _ in walk(replay.model)]
    rules = [*overrides, *(float32_rule(path, every) for path in paths)]
    layers = "that layer" if len(paths) == 1 else f"{len(paths)} layers"
    tried = "this step is finite then" if enough else "not enough by itself: mpt bisect finds more"
    return f'keep {layers} in float32, "{as_override(rules)}" ({tried}){wider}'


def _layers_to_widen(replay: Replay, fault: Fault) -> tuple[list[str], bool]:
    """Layers that make the forward pass finite when they compute in float32; whether they do."""
    assert fault.call is not None
    chosen = [fault.call.path]
    for _ in range(MOST_LAYERS):
        within = tuple(f"{path}/" for path in chosen)
        every = [p for p, _ in walk(replay.model) if p in chosen or p.startswith(within)]
        found = locate(replay.model, replay.run(float32=every))
        if found is None or found.direction == "backward":
            return chosen, True
        call = found.call
        if call is None or call.layer in (None, replay.model) or call.path in every:
            break
        chosen.append(call.path)
    return chosen[:1], False


def against_backward(
    replay: Replay, fault: Fault, step: Step, reference: Step, optimizer: LossScaleOptimizer
) -> str:
    """What to try where gradients overflowed, which a lower scale of the loss prevents.

    Args:
        step: as it was replayed.
        reference: the step in float32.
    """
    wider = ", or take precision.policy=mixed_bfloat16" if dtype_of(fault) == "float16" else ""
    if not is_finite(reference):
        return (
            "no scale and no dtype helps: look for a derivative that is infinite, as of sqrt, a "
            "norm, log or a power at 0, and keep its argument away from there"
        )
    gradients = _gradients(replay.model, step, reference)
    scale = _fitting_scale(replay, gradients)
    if scale is None:
        return f"lower the loss scale, or keep that layer in float32{wider}"
    if optimizer.mode == "dynamic":
        key = "min_scale" if scale < optimizer.min_scale else "initial_scale"
        setting = f"loss_scale.{key}={number_exactly(scale)}"
    elif optimizer.mode == "fixed":
        setting = f"loss_scale.initial_scale={number_exactly(scale)}"
        if scale >= optimizer.min_scale:
            setting += ", or loss_scale.mode=dynamic"
    else:
        setting = f"loss_scale.mode=fixed loss_scale.initial_scale={number_exactly(scale)}"
    text = f"a lower loss scale, {setting} (this step is finite at {power_of_two(scale)}){wider}"
    unscaled = max(largest for _, largest in gradients) / replay.captured.scale
    if unscaled < LARGE_GRADIENT:
        return text
    return (
        f"{text}; gradients of {number(unscaled)} before scaling are those of a run that diverges: "
        "lower optimizer.learning_rate, or set optimizer.global_clipnorm"
    )


def _gradients(model: keras.Model, step: Step, reference: Step) -> list[tuple[str, float]]:
    """The dtype of each gradient in `step` and its largest magnitude in `reference`.

    Weights are float32, and their gradients too; it is the layer's dtype that bounds those.
    """
    found = []
    if [call.path for call in step.calls] == [call.path for call in reference.calls]:
        for call, other in zip(step.calls, reference.calls, strict=True):
            own = [*call.output_gradients, *call.input_gradients]
            wide = [*other.output_gradients, *other.input_gradients]
            pairs = zip(own, wide, strict=False)
            found += [(a.dtype, b.largest) for a, b in pairs if a is not None and b is not None]
    layers = dict(walk(model))
    for name, (path, _) in weight_names(model).items():
        value = reference.weight_gradients.get(name)
        if value is not None:
            found.append((layers[path].compute_dtype, value.largest))
    return found


def _fitting_scale(replay: Replay, gradients: Sequence[tuple[str, float]]) -> float | None:
    """A power of two at which the step is finite, and two bits below its dtypes' ends if can be.

    Args:
        gradients: dtype, and largest magnitude at the scale of the replay.
    """
    share = max(largest / float(tf.as_dtype(dtype).max) for dtype, largest in gradients)
    below = max(1, math.ceil(math.log2(share) + HEADROOM_BITS)) if share > 0 else 1
    for more in (0, 2, 4):
        candidate = 2.0 ** (math.floor(math.log2(replay.captured.scale)) - below - more)
        if is_finite(replay.run(scale=candidate)):
            return candidate
    return None


def against_loss(*, float32_finite: bool) -> str:
    """What to try where the loss made what is not finite of finite predictions."""
    if float32_finite:
        return "have the loss computed in float32: keras.ops.cast(y_pred, 'float32'), as Keras's do"
    return (
        "keep the loss's logarithms, roots and divisions away from 0 (add keras.config.epsilon()), "
        "or take a Keras loss with from_logits=True"
    )


def dtype_of(fault: Fault) -> str | None:
    """The dtype in which what is at fault computes; None where nothing tells.

    Gradients of a float32 layer's inputs are cast to the dtype in which the inputs came.
    """
    call = fault.call
    if call is None:
        return None
    cast = [g.dtype for g in call.input_gradients if g is not None and not g.finite]
    if fault.direction == "backward" and cast and cast[0] in HALF:
        return cast[0]
    if call.layer is not None:
        return call.layer.compute_dtype
    values = [*call.outputs, *call.inputs]
    return values[0].dtype if values else None


def number_exactly(value: float) -> str:
    """A power of two so that it is read back as the same number."""
    return number(value) if value >= 1 else repr(value)
