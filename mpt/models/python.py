"""The user's own function that makes a Keras model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import keras


def build(
    *,
    function: Callable[..., keras.Model],
    kwargs: Mapping[str, Any] | None = None,
    shape: Sequence[int] | None,
    classes: int | None,
    name: str = "python",
) -> keras.Model:
    """The model that `function(**kwargs)` returns, compiled or not, with one or several outputs.

    Args:
        function: called under the run's precision policy.
        kwargs: its arguments.
        shape: of one example, None where it has several parts; passed on as `shape` where the
            function takes it by name.
        classes: of the data; passed on as `classes` where the function takes it by name.
        name: names the run; the model keeps the name that the function gave it.

    Raises:
        ConfigurationError: arguments that do not fit, or a result that is no Keras model.
    """
    import keras

    arguments = dict(kwargs or {})
    parameters = inspect.signature(function).parameters
    for key, value in (
        ("shape", tuple(shape) if shape is not None else None),
        ("classes", classes),
    ):
        if key in parameters:
            arguments.setdefault(key, value)
    called = getattr(function, "__qualname__", repr(function))
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise ConfigurationError(
            f"{called}{inspect.signature(function)} cannot be called: {error}",
            where="model.kwargs",
            allowed=list(parameters),
        ) from None
    model = function(**arguments)
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"{called} returned {type(model).__name__}, not a keras.Model", where="model.function"
        )
    return model
