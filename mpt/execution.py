"""How the step is executed: with XLA or without, and the loop that runs it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from mpt import kernels, loss_scale, precision, tuning
from mpt.errors import ConfigurationError
from mpt.loop import TrainLoop
from mpt.numerics import Capture, restored
from mpt.preparation import Prepared
from mpt.rematerialization import rematerialized
from mpt.replicas import iterate
from mpt.step_cache import StepCache

COMPILING = 8.0
"""s that XLA takes at most to compile a step, for each that TensorFlow takes to trace it."""


@dataclass(frozen=True)
class Execution:
    """The training loop over an endless iterator, and what was chosen for its step.

    Attributes:
        capture: where the loop's steps leave one that calls for a diagnosis.
        fused: paths of the layers whose normalization runs in the fused kernel.
        cache: what was measured of the step before.
        kernels: names of the other fused kernels that the step makes use of.
    """

    loop: TrainLoop
    capture: Capture
    jit: tuning.JitChoice
    fused: tuple[str, ...]
    cache: StepCache
    kernels: tuple[str, ...] = ()


def make_execution(prepared: Prepared, chosen: dict[str, Any] | None = None) -> Execution:
    """Choose whether XLA compiles the step, by measuring where that may pay, and make the loop.

    Args:
        chosen: `enabled` and `reason` of the choice that a run made before it was interrupted: its
            results would differ with the other one.
    """
    trainer = prepared.config.trainer
    iterator, cache = training_batches(prepared), StepCache(prepared)
    made = tuning.JitChoice(bool(chosen["enabled"]), str(chosen["reason"])) if chosen else None
    choice = made or tuning.choose_jit(
        trainer.jit_compile,
        total_steps=prepared.total_steps,
        replicas=prepared.strategy.num_replicas_in_sync,
        deterministic=prepared.config.device.deterministic,
        known=cache.jit(),
    )
    capture = Capture(
        prepared.model,
        prepared.strategy,
        prepared.data.train.element_spec,
        prepared.config.loss_scale.max_consecutive_skips,
        prepared.team,
    )
    if choice is not None:
        fused = () if choice.enabled else _fuse(prepared)
        loop, used = _loop(prepared, iterator, capture, jit=choice.enabled)
        return Execution(loop, capture, choice, fused, cache, used)
    fused = _fuse(prepared)
    start = time.perf_counter()
    plain, used = _loop(prepared, iterator, capture, jit=False)
    tracing = time.perf_counter() - start
    compiled: TrainLoop | None = None

    def compile_step() -> tuning.Timed:
        nonlocal compiled
        compiled, _ = _loop(prepared, iterator, capture, jit=True)
        return lambda steps: _rehearse_compiled(prepared, compiled, steps, rehearsal)

    rehearsal = training_batches(prepared)
    with restored(prepared.model):
        choice = tuning.measure_jit(
            lambda steps: plain.rehearse(steps, rehearsal),
            compile_step,
            total_steps=prepared.total_steps,
            compiling=COMPILING * tracing,
        )
    if choice.times is not None:
        cache.put_jit(choice.times)
    capture.rearm()  # a rehearsed step is none of the run's
    if not choice.enabled:
        return Execution(plain, capture, choice, fused, cache, used)
    assert compiled is not None
    precision.unfuse(prepared.model)
    return Execution(compiled, capture, choice, (), cache)


def training_batches(prepared: Prepared, position: int = 0) -> Iterator[Any]:
    """One iterator over the training data from batch number `position` on.

    A member of a team makes its own rows only, where the source can; else it makes whole batches.
    """
    data, team = prepared.data, prepared.team
    divided = team.size > 1 and data.jump is not None
    count = prepared.batch_size // team.size
    rows = (team.rank * count, (team.rank + 1) * count) if divided else ()
    dataset = data.at(position, *rows) if position or rows else data.train
    return iterate(dataset, prepared.strategy, team, own_rows=divided)


def _loop(
    prepared: Prepared, iterator: Iterator[Any], capture: Capture, *, jit: bool
) -> tuple[TrainLoop, tuple[str, ...]]:
    """The loop, traced, and the names of the kernels that its step makes use of."""
    model, optimizer = prepared.model, prepared.optimizer
    step, used = rematerialized(prepared.blocks, model.train_step), set[str]()
    if jit:
        step = tf.function(step, jit_compile=True)
    elif _takes_kernels(prepared):
        step = _with_kernels(step, used)
    loop = TrainLoop(
        capture.around(loss_scale.guarded(model, step, prepared.strategy)),
        lambda: {**optimizer.telemetry(), **capture.telemetry()},
        iterator,
        rows=prepared.config.trainer.log_every,
        timed=not prepared.config.device.deterministic,
    )
    try:
        loop.trace()
    except Exception as error:
        raise (_configuration_error(error) or error) from error
    return loop, tuple(sorted(used))


def _takes_kernels(prepared: Prepared) -> bool:
    """Fused kernels are for CPUs; XLA, of which they are made, is not held to be deterministic."""
    settings = prepared.config
    return (
        settings.trainer.fused_kernels
        and prepared.device.kind == "cpu"
        and not settings.device.deterministic
    )


def _with_kernels(step: Callable[[Any], Any], used: set[str]) -> Callable[[Any], Any]:
    @tf.autograph.experimental.do_not_convert
    def run(batch: Any) -> Any:
        with kernels.fused(used):
            return step(batch)

    return run


def _configuration_error(error: BaseException | None) -> ConfigurationError | None:
    """The user's mistake behind an error that tracing wrapped, if it is one.

    The innermost: Keras makes another of it, of that class, which says less.
    """
    found = None
    while error is not None:
        if isinstance(error, ConfigurationError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _rehearse_compiled(
    prepared: Prepared, loop: TrainLoop, steps: int, iterator: Iterator[Any]
) -> float:
    """Time steps under XLA, whose kernels are not to be mixed with the fused ones."""
    with precision.unfused(prepared.model):
        return loop.rehearse(steps, iterator)


def _fuse(prepared: Prepared) -> tuple[str, ...]:
    if not prepared.config.precision.fused_batch_norm:
        return ()
    return tuple(precision.fuse(prepared.model))
