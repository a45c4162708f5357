"""Whether a short training succeeds, held against the same training in float32."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpt.report import LossScale, RunReport

LAST_SHARE = 4  # the final loss is the mean over the last quarter of the steps
SKIPPED_SHARE = 0.01  # of the steps, that may be skipped without the scale's settling asking for it
FIRST_SHARE = 0.5  # of the first loss, below which the final one measures nothing
OUTSIDE_PRECISION = ("oom", "failed", "killed", "interrupted", "invalid")


@dataclass(frozen=True)
class Outcome:
    """What a short training came to.

    Attributes:
        status: as in its report; `invalid` where the configuration was refused.
        rule: by which rule it ended before its last step, where it did.
        message: that in words, with what to try.
        steps: steps done, skipped ones too.
        skipped: steps skipped.
        settling: of those, what the loss scale may need to come down to where it stays.
        first_loss: mean loss of the first interval; None: no step was applied in it.
        loss: mean loss over the last quarter of the steps; None: no step was applied in it.
        diagnosis: the report's.
    """

    status: str
    rule: str = ""
    message: str = ""
    steps: int = 0
    skipped: int = 0
    settling: int = 0
    first_loss: float | None = None
    loss: float | None = None
    diagnosis: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def outside_precision(self) -> bool:
        """It ended for a cause that says nothing about precision."""
        return self.status in OUTSIDE_PRECISION


def outcome(report: RunReport, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """What the training came to of which `report` and the `rows` of metrics.jsonl are."""
    steps = report.training.steps or 0
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    return Outcome(
        status=report.status,
        rule=report.reason.rule if report.reason else "",
        message=" ".join(report.reason.message.split()) if report.reason else "",
        steps=steps,
        skipped=report.loss_scale.skipped_steps or 0,
        settling=settling(report.loss_scale, report.config.get("loss_scale") or {}),
        first_loss=_finite(losses[0][1]) if losses else None,
        loss=_final(losses, steps),
        diagnosis=report.diagnosis,
    )


def settling(scale: LossScale, settings: Mapping[str, Any]) -> int:
    """Skipped steps that a dynamic scale may need to find its place.

    It comes down from where it starts by one factor every `hysteresis` skipped steps, and once
    more after each time that it grew. Below 1 no gradient needs it, so what it falls further
    does not count; nor does any skipped step under a scale that stays as it is.
    """
    if scale.mode != "dynamic" or not scale.history:
        return 0
    falls, previous = 0, scale.initial or scale.history[0][1]
    for _, value in scale.history:
        if 1 <= value < previous:
            falls += 1
        previous = value
    return falls * int(settings.get("hysteresis", 1))


def failure(result: Outcome, reference: Outcome | None, tolerance: float) -> str | None:
    """Why `result` fails; None: it passes.

    Args:
        reference: what float32 came to; None: `result` is that itself, and only has to train.
        tolerance: how far the final loss may be above float32's, as a share of that, or of half of
            float32's first loss, where that is more: once a loss is near zero, rounding alone can
            multiply it.
    """
    if result.status == "diverged":
        return f"diverged after {result.steps} steps ({result.rule})"
    if result.status not in ("completed", "stopped_early"):
        return f"{result.status}: {result.message}" if result.message else result.status
    return (
        _step_not_finite(result, reference)
        or _skips(result, reference)
        or _loss(result, reference, tolerance)
    )


def _step_not_finite(result: Outcome, reference: Outcome | None) -> str | None:
    """A step that no loss scale could save, where float32 had none of its kind."""
    if reference is None:
        return None
    known = {entry.get("direction") for entry in reference.diagnosis}
    for entry in result.diagnosis:
        direction = entry.get("direction")
        if direction in ("forward", "backward", "loss") and direction not in known:
            return str(entry["message"]).splitlines()[0]
    return None


def _skips(result: Outcome, reference: Outcome | None) -> str | None:
    allowed = result.steps / 2
    if reference is not None:
        needed = reference.skipped + result.settling
        allowed = min(allowed, needed + SKIPPED_SHARE * result.steps)
    if result.skipped <= allowed:
        return None
    if result.skipped == result.steps:
        return f"all {result.steps} steps were skipped"
    explained = f", {result.settling} of them to settle the loss scale" if result.settling else ""
    return f"{result.skipped} of {result.steps} steps were skipped{explained}"


def _loss(result: Outcome, reference: Outcome | None, tolerance: float) -> str | None:
    if result.loss is None:
        return "the final loss is not finite"
    if reference is None or reference.loss is None:
        return None
    excess = (result.loss - reference.loss) / _measure(reference)
    if excess <= tolerance:
        return None
    if _measure(reference) == abs(reference.loss):
        above = f"{excess:.0%} above float32's {reference.loss:.4g}, more than the tolerance"
    else:
        above = f"above float32's {reference.loss:.4g} by more than the tolerance"
        above += f" ({excess:.0%} of half the first loss)"
    return f"final loss {result.loss:.4g}, {above}"


def _measure(reference: Outcome) -> float:
    """What a difference of losses is a share of."""
    assert reference.loss is not None
    measure = max(abs(reference.loss), FIRST_SHARE * abs(reference.first_loss or 0))
    return measure or math.ulp(0.0)


def _final(losses: Sequence[tuple[int, Any]], steps: int) -> float | None:
    """Mean of the intervals that end in the last quarter, each by its number of steps."""
    begun = [0, *(step for step, _ in losses)]
    last = [
        (value, step - before)
        for before, (step, value) in zip(begun, losses, strict=False)
        if (step > steps - steps / LAST_SHARE or step == begun[-1]) and _finite(value) is not None
    ]
    count = sum(length for _, length in last)
    return math.fsum(value * length for value, length in last) / count if count else None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
