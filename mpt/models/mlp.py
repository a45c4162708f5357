"""A multilayer perceptron over the flattened input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpt.errors import ConfigurationError
from mpt.models.inputs import at_least_one, head

if TYPE_CHECKING:
    import keras


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    hidden: Sequence[int] = (512, 512),
    activation: str = "relu",
    dropout: float = 0.0,
    name: str = "mlp",
) -> keras.Model:
    """Dense layers of the widths in `hidden`, then the output layer.

    Args:
        shape: of one example, any rank of one or more; flattened.
        classes: units of the softmax output; None makes a linear output of `outputs` units.
        outputs: units of a regression's output.
        hidden: width of each hidden layer; an empty list makes a linear model.
        activation: of the hidden layers, a Keras name.
        dropout: share of units dropped after each hidden layer, in [0, 1).
        name: of the Keras model.

    Returns:
        A Sequential model from (batch, *shape) to (batch, classes or outputs).

    Raises:
        ConfigurationError: a width below 1, an unknown activation, dropout outside [0, 1).
    """
    import keras

    if not 0 <= dropout < 1:
        raise ConfigurationError(
            f"{dropout} is not a share of units to drop", where="model.dropout", allowed=["[0, 1)"]
        )
    try:
        keras.activations.get(activation)
    except ValueError:
        raise ConfigurationError(
            f"there is no activation {activation!r}",
            where="model.activation",
            value=activation,
            allowed=_activations(),
        ) from None
    layers: list[keras.layers.Layer] = [keras.Input(tuple(shape), name="input")]
    if len(shape) != 1:
        layers.append(keras.layers.Flatten(name="flatten"))
    for index, width in enumerate(hidden):
        width = at_least_one(width, f"model.hidden[{index}]")
        layers.append(keras.layers.Dense(width, activation=activation, name=f"dense_{index + 1}"))
        if dropout:
            layers.append(keras.layers.Dropout(dropout, name=f"dropout_{index + 1}"))
    return keras.Sequential([*layers, head(classes, outputs)], name=name)


def _activations() -> list[str]:
    import keras

    return sorted(
        name
        for name in dir(keras.activations)
        if name.islower()
        and name not in ("get", "serialize", "deserialize")
        and not name.startswith("_")
    )
