"""What broke a captured step, by replaying it: where, why, and what to try.

The replay runs the model's own step from the captured state. Then the same batch goes through the
same weights in float32, which tells whether precision is the cause, and the remedy that is named
is tried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from mpt.numerics import remedies
from mpt.numerics.provenance import Call, Extent, Fault, Step, is_finite, locate
from mpt.numerics.remedies import Overrides, dtype_of
from mpt.numerics.replay import BadArray, Replay, bad_batch, bad_weights
from mpt.precision import in_float8, keras_class, walk
from mpt.report.numbers import number, power_of_two
from mpt.schema import HALF

MOST_ROWS = 10  # named in a message


@dataclass(frozen=True)
class Diagnosis:
    """What broke one step.

    Attributes:
        step: its number, from 1.
        headline: what happened, in one line.
        facts: (label, text) that bear it out.
        remedy: what to try.
        direction: forward, backward, loss, input or weight; None: the replay was finite.
        path: of the layer, as in the precision table; None where none is to blame.
        kind: class of that layer.
        largest_finite: largest finite magnitude that went into it in this direction.
        dtype: the dtype in which it computes.
        float32_finite: whether the step is finite in float32; None: not known.
        bad_rows: rows of the batch, from 0, that hold NaN or infinity.
        loss_scale: with which the step was taken.
    """

    step: int
    headline: str
    facts: tuple[tuple[str, str], ...]
    remedy: str
    direction: str | None = None
    path: str | None = None
    kind: str | None = None
    largest_finite: float | None = None
    dtype: str | None = None
    float32_finite: bool | None = None
    bad_rows: tuple[int, ...] = ()
    loss_scale: float = 1.0

    @property
    def message(self) -> str:
        """One block of lines, as errors are."""
        lines = [f"step {self.step}: {self.headline}"]
        lines += [f"  {label + ':':<9}{text}" for label, text in self.facts]
        return "\n".join([*lines, f"  to do:   {self.remedy}"])

    @property
    def markdown(self) -> str:
        """The same for TensorBoard."""
        lines = [f"**Step {self.step}**: {self.headline}", ""]
        return "\n".join(
            [*lines, *(f"- {k}: {v}" for k, v in [*self.facts, ("to do", self.remedy)])]
        )

    def entry(self) -> dict[str, Any]:
        """An entry of the report's `diagnosis`; what does not apply is left out."""
        known = {
            "direction": self.direction,
            "path": self.path,
            "class": self.kind,
            "largest_finite": self.largest_finite,
            "dtype": self.dtype,
        }
        return {
            "message": self.message,
            "step": self.step,
            **{key: value for key, value in known.items() if value is not None},
            "float32_finite": self.float32_finite,
            "bad_rows": list(self.bad_rows),
            "loss_scale": self.loss_scale,
        }


def diagnose(replay: Replay, overrides: Overrides = ()) -> Diagnosis:
    """Say what broke the captured step.

    Args:
        overrides: the user's precision.overrides, to which a remedy adds.

    Raises:
        Exception: what the model raises when it runs layer by layer.
    """
    model, captured = replay.model, replay.captured
    step = replay.run()
    narrow = any(layer.compute_dtype in HALF for _, layer in walk(model))
    reference = replay.run(float32=None) if narrow else step
    finite = is_finite(reference)
    fault = locate(model, step, reference if narrow and finite else None)
    batch, weights = bad_batch(captured.batch), bad_weights(model, captured.state)
    if fault is None:
        found = _not_reproduced(step)
    elif not finite and batch and _is_of_batch(fault, batch):
        found = _input(batch)
    # What is finite in float32 with the same batch and weights has them so for a purpose: a mask.
    elif not finite and (blamed := _blamed(fault, weights, model.trainable_variables)):
        found = _weight(blamed, weights, replay)
    elif fault.direction in ("forward", "input"):
        remedy = remedies.against_forward(replay, fault, overrides, float32_finite=finite)
        found = _forward(fault, replay, remedy)
    elif fault.direction == "loss":
        found = _loss(fault, step, float32_finite=finite)
    else:
        remedy = remedies.against_backward(replay, fault, step, reference, model.optimizer)
        found = _backward(fault, replay, remedy, float32_finite=finite)
    facts = [*found.pop("facts"), *_float32(finite, narrow=narrow, fault=fault)]
    if in_float8(model):
        facts.append(("float8", "the replay computes these products in bfloat16"))
    if captured.applied:
        facts.append(("state", "its gradients were finite, so the replay starts one update later"))
    return Diagnosis(
        step=captured.step,
        facts=tuple(facts),
        float32_finite=finite,
        bad_rows=tuple(sorted({row for each in batch for row in each.rows})),
        loss_scale=captured.scale,
        **found,
    )


def _is_of_batch(fault: Fault, batch: Sequence[BadArray]) -> bool:
    """Whether the batch's own NaN or infinity is what the fault is about."""
    if fault.direction == "input":
        return any(each.part != "targets" for each in batch)
    # Targets and sample weights are first met by the loss.
    return fault.direction in ("loss", "backward") and any(each.part != "inputs" for each in batch)


def _blamed(fault: Fault, weights: Sequence[BadArray], trainable: Sequence[Any]) -> BadArray | None:
    """The weight that is at fault: one of that very layer, or any that is trained."""
    own = [each for each in weights if fault.call is not None and each.path == fault.call.path]
    trained = [each for each in weights if any(each.variable is one for one in trainable)]
    return next(iter([*own, *trained]), None)


def _input(batch: Sequence[BadArray]) -> dict[str, Any]:
    names = " and ".join(f"{each.name} with {each.holds}" for each in batch)
    facts = [("rows", f"{each.name}: {_rows(each.rows)}") for each in batch if each.rows]
    return {
        "headline": f"the batch itself holds what is not finite: {names}",
        "facts": facts,
        "remedy": "take such rows out of the dataset, or repair them; rows are counted from 0 in "
        "this batch, after shuffling",
        "direction": "input",
    }


def _rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:MOST_ROWS]))
    more = f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}{more}"


def _weight(blamed: BadArray, weights: Sequence[BadArray], replay: Replay) -> dict[str, Any]:
    layer = dict(walk(replay.model))[blamed.path]
    kind = keras_class(layer).__name__
    facts = [("weight", f"{blamed.name} holds {blamed.holds}")]
    if len(weights) > 1:
        facts.append(("weights", f"{len(weights)} are not finite"))
    return {
        "headline": f"a weight of {kind} {blamed.path!r} is not finite",
        "facts": facts,
        "remedy": "such a weight never recovers: start from others (init_from), with a lower "
        "optimizer.learning_rate if training made it so",
        "direction": "weight",
        "path": blamed.path,
        "kind": kind,
        "dtype": layer.compute_dtype,
    }


def _forward(fault: Fault, replay: Replay, remedy: str) -> dict[str, Any]:
    named = _named(fault.call, replay)
    verb = "gave NaN" if fault.nan else "overflowed"
    dtype = dtype_of(fault)
    largest, end = fault.largest, _largest_number(dtype)
    if dtype in HALF and largest > end:
        verb = "overflowed"
        numbers = f"inputs up to {number(largest)} are cast to {dtype}, which ends at {number(end)}"
    else:
        came = "NaN" if fault.nan else "infinity"
        numbers = f"finite inputs up to {number(largest)}, " if fault.call is not None else ""
        numbers += f"{came} came out"
        numbers += f"; {dtype} ends at {number(end)}" if dtype else ""
    scale = f"{power_of_two(replay.captured.scale)}; no loss scale helps against this"
    return {
        "headline": f"{named['name']} {verb} going forward{_aside(fault, 'before')}",
        "facts": [("numbers", numbers), ("scale", scale)],
        "remedy": remedy,
        "direction": "forward",
        "largest_finite": largest if fault.call is not None else None,
        "dtype": dtype,
        "path": named["path"],
        "kind": named["kind"],
    }


def _loss(fault: Fault, step: Step, *, float32_finite: bool) -> dict[str, Any]:
    came = "NaN" if fault.nan else "infinity"
    dtype = step.loss.dtype if step.loss is not None else None
    return {
        "headline": f"the loss itself gave {came}, of finite predictions",
        "facts": [
            ("numbers", f"predictions up to {number(fault.largest)}"),
            ("scale", "the loss is scaled after this: no loss scale helps"),
        ],
        "remedy": remedies.against_loss(float32_finite=float32_finite),
        "direction": "loss",
        "largest_finite": fault.largest,
        "dtype": dtype,
    }


def _backward(fault: Fault, replay: Replay, remedy: str, *, float32_finite: bool) -> dict[str, Any]:
    named = _named(fault.call, replay)
    dtype = dtype_of(fault)
    came = "NaN" if fault.nan else "infinity"
    numbers = f"finite gradients up to {number(fault.largest)} came to it, {came} came out"
    numbers += f"; {dtype} ends at {number(_largest_number(dtype))}" if dtype else ""
    effect = "a lower one helps" if float32_finite else "no other helps"
    verb = "overflowed" if float32_finite or not fault.nan else "gave NaN"
    return {
        "headline": f"the gradient {verb} going back through {named['name']}"
        + _aside(fault, "after"),
        "facts": [
            ("numbers", numbers),
            ("scale", f"{power_of_two(replay.captured.scale)}; {effect}"),
        ],
        "remedy": remedy,
        "direction": "backward",
        "largest_finite": fault.largest,
        "dtype": dtype,
        "path": named["path"],
        "kind": named["kind"],
    }


def _not_reproduced(step: Step) -> dict[str, Any]:
    facts = []
    nearest = max(_shares(step), key=lambda pair: pair[0], default=None)
    if nearest is not None:
        share, path, value = nearest
        text = f"{path} comes nearest to its end: {number(value.largest)} in {value.dtype}"
        facts.append(("numbers", f"{text} ({share:.2g} of its largest number)"))
    return {
        "headline": "not finite in training; its replay, layer by layer and without XLA, was",
        "facts": facts,
        "remedy": "numbers at the dtype's end come out one way or the other: see mpt probe, and "
        "try trainer.jit_compile=false if XLA was on",
    }


def _shares(step: Step) -> list[tuple[float, str, Extent]]:
    """How near each tensor comes to the largest number of its dtype: share, path, tensor."""
    return [
        (value.largest / _largest_number(value.dtype), call.path, value)
        for call in step.calls
        for value in [*call.outputs, *call.output_gradients, *call.input_gradients]
        if value is not None
    ]


def _float32(finite: bool, *, narrow: bool, fault: Fault | None) -> list[tuple[str, str]]:
    if not narrow:
        return []
    if finite:
        return [("float32", "the same batch is finite in float32")] if fault else []
    return [("float32", "the same batch is not finite in float32 either")]


def _named(call: Call | None, replay: Replay) -> dict[str, str]:
    """A layer's path and class, and both as one name; the model's where train_step is at fault."""
    if call is None:
        model = replay.model
        kind = keras_class(model).__name__
        return {"path": model.name, "kind": kind, "name": f"train_step of {kind} {model.name!r}"}
    if call.layer is None:
        return {"path": call.path, "kind": "Operation", "name": f"operation {call.path!r}"}
    kind = keras_class(call.layer).__name__
    name = f"{kind} {call.path!r}"
    if call.repeat:
        name += f" (in its call {call.repeat + 1})"
    return {"path": call.path, "kind": kind, "name": name}


def _aside(fault: Fault, word: str) -> str:
    """Where in a layer's own operations it happened."""
    if fault.beside is None:
        return ""
    return f", in its own operations {word} {fault.beside.path!r}"


def _largest_number(dtype: str | None) -> float:
    return float(tf.as_dtype(dtype or "float32").max)
