"""Rules that end a run before its last step, and the best evaluation so far."""

import math
from dataclasses import dataclass, field

from mpt.telemetry.window import Window


@dataclass(frozen=True)
class Reason:
    """Why a run ended: the rule, the step at which it held, and what to try."""

    rule: str
    step: int
    message: str


@dataclass(frozen=True)
class Cause:
    """What broke a step, and what to try against it, as a diagnosis found it."""

    step: int
    advice: str


@dataclass
class DivergenceRules:
    """Rules on the numerics of training; the first that holds stops the run.

    Advice is general unless the cause is known, at a step that the rule looks at.

    Attributes:
        max_consecutive_skips: steps skipped in a row.
        max_loss: mean loss of a log interval.
        flat_steps: steps over which the loss did not change by one bit.
    """

    max_consecutive_skips: int
    max_loss: float | None = None
    flat_steps: int | None = None
    _flat_loss: float | None = None
    _flat_since: int = 0
    _causes: list[Cause] = field(default_factory=list)

    def check(self, window: Window, cause: Cause | None = None) -> Reason | None:
        """The reason to stop after this window, in which `cause` was found, or None."""
        if cause is not None:
            self._causes.append(cause)
        return self._skips(window) or self._high_loss(window) or self._flat(window)

    def _known(self, first: int, last: int) -> str | None:
        """Advice from the first cause that was found in the steps from `first` to `last`."""
        for cause in self._causes:
            if first <= cause.step <= last:
                return f"step {cause.step}: {cause.advice}"
        return None

    def _skips(self, window: Window) -> Reason | None:
        skips = window.rows["consecutive_skips"]
        reached = skips >= self.max_consecutive_skips
        if not reached.any():
            return None
        at = int(reached.argmax())
        step, count = window.step - window.steps + 1 + at, int(skips[at])
        loss = window.rows["loss"][at]
        cause = self._known(step - count + 1, step) or (
            "the gradients overflow although the loss is finite: try a lower loss_scale.min_scale, "
            "or precision.policy=mixed_bfloat16"
            if math.isfinite(loss)
            else "the loss itself is not finite, so no loss scale helps: look at the data and the "
            "learning rate, or keep the layer that overflows in float32 (precision.overrides)"
        )
        return Reason(
            "max_consecutive_skips",
            step,
            f"{count} steps in a row were skipped for non-finite gradients; {cause}",
        )

    def _high_loss(self, window: Window) -> Reason | None:
        if self.max_loss is None or not window.loss > self.max_loss:
            return None
        known = None
        if math.isinf(window.loss):
            known = self._known(window.step - window.steps + 1, window.step)
        advice = known or (
            "try a lower optimizer.learning_rate, warm-up steps (optimizer.schedule.warmup_steps) "
            "or optimizer.global_clipnorm"
        )
        return Reason(
            "max_loss",
            window.step,
            f"the mean loss of the last {window.steps} steps is {window.loss:.4g}, above "
            f"trainer.stop.max_loss={self.max_loss:g}: {advice}",
        )

    def _flat(self, window: Window) -> Reason | None:
        if self.flat_steps is None:
            return None
        first = window.step - window.steps + 1
        for offset, loss in enumerate(window.rows["loss"].tolist()):
            if loss != self._flat_loss:
                self._flat_loss, self._flat_since = loss, first + offset
            elif first + offset - self._flat_since >= self.flat_steps:
                return Reason(
                    "flat_steps",
                    first + offset,
                    f"the loss stayed at exactly {loss:.6g} for {self.flat_steps} steps: the "
                    "gradients may be all zero, from underflow (mpt probe shows it; try "
                    "loss_scale.mode=dynamic) or from dead units (try another seed, or a lower "
                    "optimizer.learning_rate)",
                )
        return None


@dataclass
class Best:
    """The best value of the monitored tag, and how long nothing better came.

    Attributes:
        tag: the monitored tag.
        mode: "min" or "max".
        min_delta: least change that counts as an improvement.
        patience: evaluations without improvement that end the run; None never ends it.
    """

    tag: str
    mode: str
    min_delta: float = 0.0
    patience: int | None = None
    value: float | None = None
    step: int | None = None
    _waited: int = 0

    def update(self, step: int, value: float | None) -> Reason | None:
        """Count one evaluation; the reason to stop early, or None."""
        if value is not None and not math.isnan(value) and self._improves(value):
            self.value, self.step, self._waited = value, step, 0
            return None
        self._waited += 1
        if self.patience is None or self._waited < self.patience:
            return None
        best = "was never a number" if self.value is None else f"stayed at {self.value:.4g}"
        return Reason("early_stopping", step, f"{self.tag} {best} for {self._waited} evaluations")

    def _improves(self, value: float) -> bool:
        if self.value is None:
            return True
        gain = value - self.value if self.mode == "max" else self.value - value
        return gain > self.min_delta
