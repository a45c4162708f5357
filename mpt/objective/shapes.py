"""Whether a model can take the data's examples."""

from __future__ import annotations

from typing import Any, Protocol

import keras

from mpt.errors import ConfigurationError
from mpt.objective.outputs import fits, inputs_of


class Examples(Protocol):
    """What is asked of the data.

    Attributes:
        name: of the dataset.
        classes: labels are in [0, classes); None where they are no classes.
        element_spec: of its batches: (x, y[, sample_weight]).
        ignores: places of the labels have a weight of 0 where they are to count for nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> int | None: ...

    @property
    def element_spec(self) -> Any: ...

    @property
    def ignores(self) -> bool: ...


def check_shapes(model: keras.Model, data: Examples) -> None:
    """Refuse examples that the model's inputs cannot take.

    A model whose inputs are not declared (a subclass) is left to its first call.

    Raises:
        ConfigurationError: another number of inputs, or another shape.
    """
    declared = inputs_of(model)
    if declared is None:
        return
    given = data.element_spec[0]
    if isinstance(given, dict):
        missing = [name for name, _ in declared if name not in given]
        if missing:
            raise ConfigurationError(
                f"model {model.name!r} has an input {missing[0]!r}, the examples of {data.name} "
                f"are {', '.join(sorted(given))}",
                where="model",
                value=missing[0],
                allowed=sorted(given),
            )
        shapes = [tuple(given[name].shape) for name, _ in declared]
    else:
        shapes = [tuple(part.shape) for part in keras.tree.flatten(given)]
    if len(shapes) != len(declared):
        raise ConfigurationError(
            f"model {model.name!r} has {len(declared)} inputs, an example of {data.name} has "
            f"{len(shapes)} parts",
            where="model",
        )
    for (name, wanted), have in zip(declared, shapes, strict=True):
        if not (fits(have[1:], wanted[1:]) or but_for_one(have[1:], wanted[1:])):
            raise ConfigurationError(
                f"model {model.name!r} takes {wanted[1:]} at its input {name!r}, the examples of "
                f"{data.name} have the shape {have[1:]}",
                where="model",
                remedy="set dataset.shape, where the dataset has it, or build the model for the "
                "shape that its function is given",
            )


def but_for_one(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether the shapes are equal but for a last axis of 1, which Keras adds or drops."""
    return fits((*shape, 1), other) or fits(shape, (*other, 1))
