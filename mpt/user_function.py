"""Calling a function of the user's own: arguments by name, and its failures said as the user's."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mpt.errors import ConfigurationError, FunctionError, nearest


def call(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any] | None,
    offered: Mapping[str, Any],
    *,
    where: str,
) -> Any:
    """What `function(**kwargs)` returns.

    Args:
        offered: given besides, where the function takes them by name and `kwargs` lacks them.
        where: group of the configuration, "model" or "dataset".

    Raises:
        ConfigurationError: the arguments do not fit.
        FunctionError: the function raised; but what tells of memory is raised as it is.
    """
    signature, arguments = inspect.signature(function), dict(kwargs or {})
    for key, value in offered.items():
        if key in signature.parameters:
            arguments.setdefault(key, value)
    called = getattr(function, "__qualname__", repr(function))
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigurationError(
            f"{called}{signature} cannot be called: {error}",
            where=f"{where}.kwargs",
            allowed=list(signature.parameters),
            remedy=_naming(signature, arguments, offered, where),
        ) from None
    try:
        return function(**arguments)
    except (ConfigurationError, MemoryError):
        raise
    except Exception as error:
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow and isinstance(error, tensorflow.errors.ResourceExhaustedError):
            raise
        raise FunctionError(
            f"{called} raised {type(error).__name__}: {error}",
            where=f"{where}.function",
            remedy="--debug shows the traceback",
        ) from error


def _naming(
    signature: inspect.Signature,
    arguments: Mapping[str, Any],
    offered: Mapping[str, Any],
    where: str,
) -> str | None:
    """What gives the first argument that is missing its value."""
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in arguments
    ]
    if not missing:
        return None
    name = missing[0]
    alike = next((key for key in offered if key in name), nearest(name, offered))
    if alike is None:
        return f"add +{where}.kwargs.{name}=VALUE"
    value = offered[alike]
    if isinstance(value, tuple | list):
        value = json.dumps(value, separators=(",", ":"))
    value = "VALUE" if value is None else value
    return f"name it {alike!r}, or add +{where}.kwargs.{name}={value}"
