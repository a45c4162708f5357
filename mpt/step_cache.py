"""What was measured of a training step before: its choices are made without measuring again."""

from dataclasses import asdict
from typing import Any

from mpt import tuning
from mpt.preparation import Prepared
from mpt.tuning_cache import digest

OF_A_STEP = (
    *("model", "optimizer", "precision", "loss_scale", "telemetry"),
    *("loss", "loss_weights", "label_smoothing", "class_weight", "metrics"),
)
"""The parts of a configuration that the cost of a step depends on."""
JIT, STEPS = "XLA", "steps a call"


class StepCache:
    """What was measured of this step on this machine before, and may be used in this run."""

    def __init__(self, prepared: Prepared):
        self._cache, self._step = prepared.tuning_cache, digest(_cost(prepared))

    def jit(self) -> tuning.JitTimes | None:
        return tuning.JitTimes.kept(self._cache.get(what=JIT, step=self._step))

    def put_jit(self, times: tuning.JitTimes) -> None:
        self._cache.put(asdict(times), what=JIT, step=self._step)

    def steps_per_execution(self) -> dict[str, Any] | None:
        """The state of a `tuning.StepsPerExecution`, unchecked."""
        return self._cache.get(what=STEPS, step=self._step)

    def put_steps_per_execution(self, steps: tuning.StepsPerExecution) -> None:
        self._cache.put(steps.state(), what=STEPS, step=self._step)


def _cost(prepared: Prepared) -> dict[str, Any]:
    """All that the cost of a step depends on, besides the machine; of plain JSON values.

    Of a number with a fraction, such as a learning rate, it is only whether it is zero.
    """
    config = asdict(prepared.config)
    weights = [[list(v.shape), v.dtype] for v in prepared.model.variables]
    return {
        **{name: _without_fractions(config[name]) for name in OF_A_STEP},
        "trainer": [prepared.config.trainer.fused_kernels, prepared.config.trainer.rematerialize],
        "policy": prepared.choice.policy,
        "tf32": prepared.choice.tf32,
        "batch": str(prepared.data.train.element_spec),
        "batch_size": prepared.batch_size,
        "replicas": prepared.strategy.num_replicas_in_sync,
        "weights": weights,
    }


def _without_fractions(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_fractions(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_fractions(each) for each in value]
    if isinstance(value, float):
        return bool(value)
    return value if isinstance(value, str | int | None) else str(value)
