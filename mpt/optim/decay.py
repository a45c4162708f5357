"""Which variables weight decay leaves alone.

Scales, shifts and biases have no size that a penalty would serve: timm, nanoGPT and the recipes of
ViT and ResNet-50 decay none of them.
"""

import re
from collections.abc import Sequence
from typing import Any

import keras

from mpt.errors import ConfigurationError
from mpt.rule_text import check_pattern

WHERE = "optimizer.weight_decay_exclude"
NORMS_AND_BIASES = "norms_and_biases"
"""Variables of one axis or none, and those named bias, which attention's have two of."""


def check(exclude: Any) -> None:
    """Refuse what is no list of patterns."""
    if not isinstance(exclude, list | tuple):
        raise ConfigurationError(
            f"{exclude!r} is no list", where=WHERE, allowed=[f"[{NORMS_AND_BIASES}, PATTERN, ...]"]
        )
    for index, pattern in enumerate(exclude):
        check_pattern(pattern, where=f"{WHERE}[{index}]")


def excluded(variables: Sequence[keras.Variable], exclude: Sequence[str]) -> list[keras.Variable]:
    """Those of `variables` that `exclude` names.

    Args:
        variables: with paths such as `head/bias`.
        exclude: `norms_and_biases`, or regular expressions, looked for in the paths.

    Raises:
        ConfigurationError: an expression matches no variable.
    """
    found: dict[int, keras.Variable] = {}
    for index, pattern in enumerate(exclude):
        if pattern == NORMS_AND_BIASES:
            own = [v for v in variables if len(v.shape) < 2 or v.name == "bias"]
        else:
            own = [v for v in variables if re.search(pattern, v.path)]
            if not own:
                raise ConfigurationError(
                    f"{pattern!r} matches no variable that is trained",
                    where=f"{WHERE}[{index}]",
                    value=pattern,
                    allowed=[v.path for v in variables],
                )
        found.update((id(variable), variable) for variable in own)
    return list(found.values())
