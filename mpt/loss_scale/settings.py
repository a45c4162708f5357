"""What the settings of a loss scale may be."""

import math
from typing import Any

import keras

from mpt.errors import ConfigurationError

MODES = ("dynamic", "fixed", "none")
BOUNDS = {  # least, whether that is excluded, what it is below
    "initial_scale": (0, True, math.inf),
    "growth_steps": (1, False, math.inf),
    "growth_factor": (1, True, math.inf),
    "backoff_factor": (0, True, 1),
    "min_scale": (0, True, math.inf),
    "max_scale": (0, True, math.inf),
    "hysteresis": (1, False, math.inf),
    "statistics_every": (0, False, math.inf),
}


def check_inner(inner: keras.Optimizer) -> None:
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ConfigurationError(
            "The optimizer already scales the loss.",
            where="optimizer",
            remedy="give the optimizer that it wraps.",
        )
    if inner.loss_scale_factor is not None:
        raise ConfigurationError(
            "The optimizer has a loss_scale_factor of its own, which the loss scale would replace.",
            where="optimizer.loss_scale_factor",
            remedy="set loss_scale.mode=fixed and loss_scale.initial_scale instead.",
        )


def check_settings(optimizer: Any) -> None:
    if optimizer.mode not in MODES:
        raise ConfigurationError(
            f"There is no loss scale mode {optimizer.mode!r}.",
            where="loss_scale.mode",
            allowed=MODES,
            value=optimizer.mode,
        )
    for key, (least, excluded, below) in BOUNDS.items():
        value = getattr(optimizer, key)
        if not (least < value if excluded else least <= value) or not value < below:
            raise ConfigurationError(
                f"{value} is out of range.",
                where=f"loss_scale.{key}",
                allowed=[f"{'over ' if excluded else ''}{least}, below {below}"],
            )
    within = optimizer.min_scale <= optimizer.initial_scale <= optimizer.max_scale
    if optimizer.mode == "dynamic" and not within:
        raise ConfigurationError(
            f"The first scale, {optimizer.initial_scale}, is not between floor and ceiling.",
            where="loss_scale.initial_scale",
            allowed=[f"{optimizer.min_scale} to {optimizer.max_scale}"],
            remedy="set loss_scale.min_scale and loss_scale.max_scale around it.",
        )
