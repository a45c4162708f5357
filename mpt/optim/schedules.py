"""Learning-rate schedules, all as plain Keras objects, so that a saved model needs nothing of ours.

Steps are optimizer steps: with `gradient_accumulation_steps` several training steps make one.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras

from mpt.errors import ConfigurationError

WHERE = "optimizer.schedule"
Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def constant(*, learning_rate: float, total_steps: int, warmup_steps: int = 0) -> Rate:
    """`learning_rate` throughout, after a linear rise from 0 over `warmup_steps`.

    Without warm-up it is a plain float, so that callbacks can set it.
    """
    if warmup_steps == 0:
        return learning_rate
    _check_warmup(warmup_steps, total_steps)
    # A cosine that decays to 1.0 of its start is Keras's own warm-up followed by a constant.
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=1,
        alpha=1.0,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def cosine(
    *, learning_rate: float, total_steps: int, warmup_steps: int = 0, alpha: float = 0.0
) -> Rate:
    """Half a cosine from `learning_rate` to `alpha * learning_rate` at the last step.

    Loshchilov and Hutter, "SGDR", 2017 (arXiv:1608.03983), without restarts. With `warmup_steps`
    it follows a linear rise from 0 and still ends at the last step.
    """
    if not 0 <= alpha <= 1:
        raise ConfigurationError(
            f"The last learning rate, as a share of the first, is {alpha}.",
            where=f"{WHERE}.alpha",
            allowed=["0 to 1"],
        )
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps, alpha=alpha)
    _check_warmup(warmup_steps, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=total_steps - warmup_steps,
        alpha=alpha,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def warmup_cosine(
    *, learning_rate: float, total_steps: int, warmup_steps: int = 0, alpha: float = 0.0
) -> Rate:
    """`cosine` whose warm-up must be given (Goyal et al., 2017, arXiv:1706.02677)."""
    if warmup_steps < 1:
        raise ConfigurationError(
            "A warm-up of no steps.",
            where=f"{WHERE}.warmup_steps",
            allowed=["1 or more"],
            remedy="set optimizer.schedule.warmup_steps, or optimizer.schedule.name=cosine.",
        )
    return cosine(
        learning_rate=learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        alpha=alpha,
    )


def piecewise(
    *,
    learning_rate: float,
    total_steps: int,
    boundaries: list[int],
    values: list[float] | None = None,
    factors: list[float] | None = None,
    warmup_steps: int = 0,
) -> Rate:
    """A constant rate up to each boundary (that step included) and another one after it.

    Args:
        learning_rate: what `factors` multiply.
        total_steps: unused; every schedule takes it.
        boundaries: optimizer steps, increasing.
        values: learning rates, one more than boundaries, in place of `learning_rate`.
        factors: or multiples of `learning_rate`, one more than boundaries.
        warmup_steps: must be 0; a warm-up is a first piece here.
    """
    if warmup_steps:
        raise ConfigurationError(
            "A piecewise schedule has no warm-up.",
            where=f"{WHERE}.warmup_steps",
            allowed=["0"],
            remedy="give the warm-up as a first piece of boundaries and values.",
        )
    if (values is None) == (factors is None):
        raise ConfigurationError(
            "A piecewise schedule takes its rates from one of values and factors.",
            where=f"{WHERE}.values",
            remedy="set exactly one of optimizer.schedule.values and optimizer.schedule.factors.",
        )
    key = "values" if values is not None else "factors"
    rates = values if values is not None else [learning_rate * f for f in factors or []]
    steps = list(boundaries)
    if not steps or any(b >= a for b, a in itertools.pairwise(steps)) or steps[0] < 0:
        raise ConfigurationError(
            f"The boundaries {steps} are not increasing steps.", where=f"{WHERE}.boundaries"
        )
    if len(rates) != len(steps) + 1:
        raise ConfigurationError(
            f"{len(steps)} boundaries part {len(steps) + 1} pieces, but {len(rates)} were given.",
            where=f"{WHERE}.{key}",
            allowed=[f"{len(steps) + 1} numbers"],
        )
    return keras.optimizers.schedules.PiecewiseConstantDecay(steps, [float(rate) for rate in rates])


SCHEDULES: dict[str, Callable[..., Rate]] = {
    function.__name__: function for function in (constant, cosine, warmup_cosine, piecewise)
}


def build(schedule: Mapping[str, Any] | None, *, learning_rate: float, total_steps: int) -> Rate:
    """The learning rate over a run: a float, or a Keras schedule of optimizer steps.

    Args:
        schedule: {name: constant|cosine|warmup_cosine|piecewise, ...its arguments}; None: constant.
        learning_rate: the schedule's base or peak.
        total_steps: optimizer steps of the whole run, at least 1.

    Raises:
        ConfigurationError: an unknown name or argument, a missing one, or a value out of range.
    """
    arguments = dict(schedule or {})
    name = arguments.pop("name", "constant")
    if name not in SCHEDULES:
        raise ConfigurationError(
            f"There is no schedule {name!r}.", where=f"{WHERE}.name", allowed=SCHEDULES, value=name
        )
    function = SCHEDULES[name]
    parameters = inspect.signature(function).parameters
    own = [key for key in parameters if key not in ("learning_rate", "total_steps")]
    for key in arguments:
        if key not in own:
            raise ConfigurationError(
                f"The schedule {name} has no key {key!r}.",
                where=f"{WHERE}.{key}",
                allowed=own,
                value=key,
            )
    for key in own:
        if parameters[key].default is inspect.Parameter.empty and arguments.get(key) is None:
            raise ConfigurationError(f"The schedule {name} needs {key}.", where=f"{WHERE}.{key}")
    _check_types(arguments)
    return function(learning_rate=learning_rate, total_steps=total_steps, **arguments)


def stretched(schedule: Rate, factor: int) -> Rate:
    """`schedule` for a counter that runs `factor` times as fast.

    Plain Keras feeds a schedule the number of microbatches. A piecewise schedule comes out exactly
    the same; the others are read up to one optimizer step ahead.
    """
    if factor == 1 or isinstance(schedule, float):
        return schedule
    config = schedule.get_config()
    for key in ("decay_steps", "warmup_steps"):
        if key in config:
            config[key] *= factor
    if "boundaries" in config:
        config["boundaries"] = [step * factor + factor - 1 for step in config["boundaries"]]
    return type(schedule).from_config(config)


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
    if not 0 < warmup_steps < total_steps:
        raise ConfigurationError(
            f"A warm-up of {warmup_steps} steps in a run of {total_steps} optimizer steps.",
            where=f"{WHERE}.warmup_steps",
            allowed=[f"0 to {total_steps - 1}"],
            remedy="train for longer, or warm up for less.",
        )


def _check_types(arguments: Mapping[str, Any]) -> None:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def listed(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, list | tuple) and all(map(test, value))

    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "warmup_steps": (lambda value: whole(value) and value >= 0, "a whole number, 0 or more"),
        "alpha": (number, "a number"),
        "boundaries": (listed(whole), "a list of whole numbers"),
        "values": (lambda value: value is None or listed(number)(value), "a list of numbers"),
        "factors": (lambda value: value is None or listed(number)(value), "a list of numbers"),
    }
    for key, value in arguments.items():
        test, meaning = kinds[key]
        if not test(value):
            raise ConfigurationError(
                f"{value!r} cannot be used.", where=f"{WHERE}.{key}", allowed=[meaning]
            )
