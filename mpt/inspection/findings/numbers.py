"""Findings about numbers: where a half type loses range or precision that the model needs."""

from __future__ import annotations

from collections.abc import Iterator

from mpt.inspection.findings.finding import Finding, in_float32
from mpt.inspection.findings.operations import long_reductions, softmaxes, unscaled_attention
from mpt.inspection.subject import Subject
from mpt.schema import HALF


def half_precision_outputs(subject: Subject) -> Iterator[Finding]:
    """Outputs of the model in half precision."""
    if subject.step is None:
        return
    calls = subject.calls_of(subject.model.name)
    for tensor in calls[0].outputs if calls else ():
        if tensor.dtype.name not in HALF:
            continue
        maker = subject.step.maker(tensor) or calls[0]
        remedy = in_float32(subject, maker)
        if subject.config.precision.head == "policy":
            remedy = "precision.head=float32"
        yield Finding(
            "half_precision_output",
            maker.path,
            f"The model's output is in {tensor.dtype.name}: the loss gets rounded predictions, "
            "and logits lose the most.",
            remedy,
        )


def half_precision_add_loss(subject: Subject) -> Iterator[Finding]:
    """add_loss and activity regularizers whose value is in half precision."""
    seen: set[str] = set()
    for call in subject.step.calls if subject.step is not None else ():
        dtypes = {loss.dtype.name for loss in call.losses} & set(HALF)
        if not dtypes or call.path in seen:
            continue
        seen.add(call.path)
        yield Finding(
            "half_precision_add_loss",
            call.path,
            f"The layer adds a loss that it computed in {min(dtypes)}; plain Keras refuses to add "
            "it to a float32 one, and mpt can only cast what is rounded already.",
            f"cast to float32 before the sum: self.add_loss(...(keras.ops.cast(x, 'float32'))); "
            f"or {in_float32(subject, call)}",
        )


def float16_softmax(subject: Subject) -> Iterator[Finding]:
    """A softmax in float16."""
    if subject.step is None:
        return
    for call, length in softmaxes(subject.step, "float16"):
        over = f" over {length} values" if length else ""
        yield Finding(
            "float16_softmax",
            call.path,
            f"A softmax{over} in float16: probabilities below 6e-8 become zero, and their "
            "logarithm infinite.",
            in_float32(subject, call),
        )


def float16_reduction(subject: Subject) -> Iterator[Finding]:
    """A long sum in float16."""
    if subject.step is None:
        return
    for call, length in long_reductions(subject.step, "float16"):
        yield Finding(
            "float16_reduction",
            call.path,
            f"It sums {length} values in float16, which overflows at 65504 and stops growing at "
            "2048 times the size of a term.",
            in_float32(subject, call),
        )


def attention_multiplies_first(subject: Subject) -> Iterator[Finding]:
    """Attention in float16 that scales the product of query and key, and not the query."""
    if subject.step is None:
        return
    for call in unscaled_attention(subject.step, "float16"):
        yield Finding(
            "attention_multiplies_first",
            call.path,
            "It multiplies query and key in float16 and scales the product afterwards: the "
            "product overflows where the scaled one would not.",
            f"{in_float32(subject, call)}, or precision=mixed_bfloat16, or scale the query first",
        )


def half_precision_metric(subject: Subject) -> Iterator[Finding]:
    """A metric of the user's own class that gets half precision."""
    for name, kind, dtype in subject.step.half_metrics if subject.step is not None else ():
        yield Finding(
            "half_precision_metric",
            subject.model.name,
            f"The train_step gives the metric {name} ({kind}) predictions in {dtype}: what it "
            "sums, it sums in half precision.",
            f"in the train_step: {name}.update_state(y, keras.ops.cast(y_pred, 'float32')); or "
            "compile the model with the metric, and mpt casts for it",
        )
