"""The user's own function that makes a Keras model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt import user_function
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
        FunctionError: the function raised.
    """
    import keras

    offered = {"shape": tuple(shape) if shape is not None else None, "classes": classes}
    model = user_function.call(function, kwargs, offered, where="model")
    if not isinstance(model, keras.Model):
        called = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(
            f"{called} returned {type(model).__name__}, not a keras.Model", where="model.function"
        )
    return model
