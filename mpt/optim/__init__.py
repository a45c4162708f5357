"""Optimizers and learning-rate schedules, by name.

Any optimizer of Keras can be built; Adam, AdamW and SGD update through fused kernels (`fused`).
`plain` gives the object of Keras's own class that holds the same state, for saving.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.optim import decay, schedules
from mpt.optim.averages import averaged
from mpt.optim.decay import NORMS_AND_BIASES
from mpt.optim.fused import CLASSES, CountedSteps

__all__ = ["averaged", "build", "plain", "unwrapped"]

SET_BY_BUILD = (
    "learning_rate",
    "weight_decay",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "use_ema",
)
SET_ELSEWHERE = {
    "loss_scale_factor": "set loss_scale.mode=fixed and loss_scale.initial_scale.",
    "use_ema": "set optimizer.ema.",
}


def build(
    *,
    name: str,
    learning_rate: float,
    total_steps: int,
    weight_decay: float = 0.0,
    weight_decay_exclude: Sequence[str] = (NORMS_AND_BIASES,),
    global_clipnorm: float | None = None,
    gradient_accumulation_steps: int = 1,
    ema: bool = False,
    schedule: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> keras.Optimizer:
    """The optimizer of a run, not yet wrapped for loss scaling.

    Args:
        name: sgd, adam, or that of any other optimizer class of Keras, in small letters or not.
        learning_rate: base or peak of the schedule, at least 0.
        total_steps: training steps of the run. With accumulation the schedule spans
            `total_steps // gradient_accumulation_steps` optimizer steps.
        weight_decay: decoupled decay a step, times the learning rate; 0 is none.
        weight_decay_exclude: norms_and_biases, or patterns of paths, as `mpt.optim.decay` has it.
        global_clipnorm: largest L2 norm of all gradients together, unscaled; None does not clip.
        gradient_accumulation_steps: training steps whose gradients make one optimizer step.
        ema: keep a moving average of the weights, which replaces them at the end.
        schedule: {name: constant|cosine|warmup_cosine|piecewise, ...}, in optimizer steps.
        **arguments: further arguments of the Keras class.

    Raises:
        ConfigurationError: an unknown name or argument, or a value that the class refuses.
    """
    base = _class_of(name)
    _check_number("learning_rate", learning_rate, least=0)
    _check_number("weight_decay", weight_decay, least=0)
    if global_clipnorm is not None:
        _check_number("global_clipnorm", global_clipnorm, least=0, strictly=True)
    decay.check(weight_decay_exclude)
    every = gradient_accumulation_steps
    _check_accumulation(every, overwrites=ema and bool(arguments.get("ema_overwrite_frequency")))
    parameters = _parameters(base)
    _check_names(name, parameters, arguments)
    given = {
        **{key: _as_declared(parameters[key], value) for key, value in arguments.items()},
        "learning_rate": schedules.build(
            schedule, learning_rate=float(learning_rate), total_steps=max(1, total_steps // every)
        ),
        # AdamW refuses None, and the others multiply by a decay of 0 at a cost.
        "weight_decay": float(weight_decay) if weight_decay or name.lower() == "adamw" else None,
        "global_clipnorm": None if global_clipnorm is None else float(global_clipnorm),
        "gradient_accumulation_steps": every if every > 1 else None,
        "use_ema": bool(ema),
    }
    try:
        optimizer = base(**given)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Keras refuses this {name}: {error}", where="optimizer"
        ) from error
    optimizer.weight_decay_exclude = tuple(weight_decay_exclude)
    return optimizer


def plain(optimizer: keras.Optimizer) -> keras.Optimizer:
    """The optimizer of Keras's own class with the same variables, for saving in plain Keras.

    A wrapper that has an `inner_optimizer` (for loss scaling) is left off. The variables are
    shared, not copied: save with it, do not train with it. A schedule is stretched by
    `gradient_accumulation_steps`, as plain Keras counts microbatches.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(optimizer, CountedSteps):
        return optimizer
    twin = object.__new__(optimizer.plain_class)
    twin.__dict__.update(optimizer.__dict__)
    rate = twin.__dict__["_learning_rate"]
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        every = twin.__dict__["gradient_accumulation_steps"] or 1
        twin.__dict__["_learning_rate"] = schedules.stretched(rate, every)
    return twin


@contextmanager
def unwrapped(model: keras.Model) -> Iterator[None]:
    """Within it, `model` carries its `plain` optimizer, so that `model.save` names only Keras."""
    optimizer, settings = model.optimizer, model._compile_config
    compiled = dict(settings.config)
    model.optimizer = plain(optimizer)
    settings.config = {**compiled, "optimizer": model.optimizer}
    try:
        yield
    finally:
        model.optimizer = optimizer
        settings.config = compiled


def _class_of(name: str) -> type[keras.Optimizer]:
    if not isinstance(name, str) or name.lower() not in CLASSES:
        raise ConfigurationError(
            f"There is no optimizer {name!r}.", where="optimizer.name", allowed=CLASSES, value=name
        )
    return CLASSES[name.lower()]


def _check_accumulation(every: int, *, overwrites: bool) -> None:
    """ConfigurationError where `every` is no number of steps, or the weights are overwritten."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigurationError(
            f"{every!r} cannot be used.",
            where="optimizer.gradient_accumulation_steps",
            allowed=["a whole number, 1 or more"],
        )
    if every > 1 and overwrites:
        raise ConfigurationError(
            "The weights cannot be overwritten by their average within an accumulation.",
            where="optimizer.ema_overwrite_frequency",
            remedy="leave it out, or set optimizer.gradient_accumulation_steps=1.",
        )


def _parameters(base: type[keras.Optimizer]) -> dict[str, inspect.Parameter]:
    """Arguments of the Keras class by name, without self and **kwargs."""
    found = inspect.signature(base.__init__).parameters
    return {
        key: parameter
        for key, parameter in found.items()
        if key != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _check_names(
    name: str, parameters: Mapping[str, inspect.Parameter], arguments: Mapping[str, Any]
) -> None:
    own = [key for key in parameters if key not in (*SET_BY_BUILD, *SET_ELSEWHERE, "name")]
    for key in arguments:
        if key not in own:
            raise ConfigurationError(
                f"The optimizer {name} has no key {key!r}.",
                where=f"optimizer.{key}",
                allowed=own,
                value=key,
                remedy=SET_ELSEWHERE.get(key),
            )


def _as_declared(parameter: inspect.Parameter, value: Any) -> Any:
    """`value`, with a whole number as a float where the class's default is a float."""
    default = parameter.default
    where = f"optimizer.{parameter.name}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigurationError(
                f"{value!r} cannot be used.", where=where, allowed=[True, False]
            )
    elif isinstance(default, float):
        _check_number(parameter.name, value)
        return float(value)
    return value


def _check_number(
    key: str, value: Any, *, least: float = -math.inf, strictly: bool = False
) -> None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if fits and (value > least if strictly else value >= least):
        return
    bound = "a number"
    if least > -math.inf:
        bound += f" over {least}" if strictly else f", {least} or more"
    raise ConfigurationError(
        f"{value!r} cannot be used.", where=f"optimizer.{key}", allowed=[bound]
    )
