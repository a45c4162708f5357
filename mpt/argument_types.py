"""Hold a value of the configuration against a builder's annotation."""

import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from mpt.errors import ConfigurationError


def annotation_of(target: Callable, parameter: inspect.Parameter) -> Any:
    """The parameter's annotation as an object; Any where it cannot be resolved."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if isinstance(annotation, str):
        names = vars(sys.modules.get(target.__module__, types.ModuleType("none")))
        try:
            return eval(annotation, dict(names))  # code of the target's own, already admitted
        except Exception:  # a name imported for type checkers only
            return Any
    return annotation


def fits(value: Any, annotation: Any, *, where: str) -> Any:
    """`value`, as a tuple where the annotation says so.

    Raises:
        ConfigurationError: the value is of another type. A whole number is a number; true and
            false are not. Annotations outside plain ones and containers admit anything.
    """
    for choice in _choices(annotation):
        matched, converted = _match(value, choice)
        if matched:
            return converted
    shown = "null" if value is None else repr(value)
    raise ConfigurationError(
        f"{where}={shown} has the wrong type", where=where, allowed=[type_words(annotation)]
    )


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def _match(value: Any, annotation: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(annotation) or annotation
    if annotation in (None, types.NoneType):
        return value is None, value
    if origin is bool:
        return isinstance(value, bool), value
    if origin in (int, float):
        kinds = (int,) if origin is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool), value
    if origin is str:
        return isinstance(value, str), value
    if origin is typing.Literal:
        return value in typing.get_args(annotation), value
    if origin in (list, tuple, collections.abc.Sequence):
        return _match_sequence(value, origin, typing.get_args(annotation))
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, collections.abc.Mapping), value
    return True, value


def _match_sequence(value: Any, origin: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return False, value
    uniform = [argument for argument in arguments if argument is not Ellipsis]
    if len(uniform) == 1:
        for item in value:
            if not any(_match(item, choice)[0] for choice in _choices(uniform[0])):
                return False, value
    return True, tuple(value) if origin is tuple else list(value)


def type_words(annotation: Any) -> str:
    """A type annotation, or a tuple of types, in a user's words: 'a whole number or null'."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
        None: "null",
        list: "a list",
        tuple: "a list",
        collections.abc.Sequence: "a list",
        dict: "a mapping",
        collections.abc.Mapping: "a mapping",
    }
    choices = annotation if isinstance(annotation, tuple) else _choices(annotation)
    if float in choices:
        choices = tuple(choice for choice in choices if choice is not int)
    if isinstance(annotation, tuple) or len(choices) > 1:
        return " or ".join(type_words(choice) for choice in choices)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(str(choice) for choice in typing.get_args(annotation))
    origin = typing.get_origin(annotation) or annotation
    if dataclasses.is_dataclass(origin):
        return "a mapping"
    inner = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    if words.get(origin) == "a list" and len(set(inner)) == 1 and inner[0] is int:
        return "a list of whole numbers"
    return words.get(origin, getattr(origin, "__name__", str(origin)))
