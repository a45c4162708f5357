"""From JSON back to a report."""

import json
import os
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mpt.errors import ConfigurationError
from mpt.report.json_values import decode
from mpt.report.regular_file import read_regular
from mpt.report.run_report import SCHEMA_VERSION, RunReport

DEEPEST = 100
"""Levels of a report, its configuration included; Python's own limit is ten times that."""
LARGEST_BYTES = 2**26
LARGEST = 10**100
"""A whole number that no report reaches; not every larger one can be a float."""


def read(path: str | Path) -> RunReport:
    """The report in a file, or in a run's folder.

    Raises:
        ConfigurationError: there is none, or it cannot be understood.
    """
    path = Path(path)
    file = path / "report.json" if os.path.isdir(path) else path
    try:
        content = json.loads(read_regular(file, LARGEST_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"No report can be read: {error.strerror}.",
            where=str(file),
            remedy="name a run's folder, one that holds report.json",
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"The report is not JSON: {error}.", where=str(file)) from error
    except RecursionError:
        raise _too_deep(str(file)) from None
    return from_json(content, where=str(file))


def from_json(content: Any, *, where: str = "report.json") -> RunReport:
    """The report in parsed JSON. Unknown keys are ignored; absent optional ones get defaults.

    Raises:
        ConfigurationError: it was written by a newer mpt, lacks a required key, or holds a value
            of the wrong type.
    """
    if not isinstance(content, dict):
        raise ConfigurationError("The report is not a JSON object.", where=where)
    if not _is_shallow(content):
        raise _too_deep(where)
    version = content.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ConfigurationError("This is not a report: no schema_version.", where=where)
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"The report has schema_version {version}; this mpt reads up to {SCHEMA_VERSION}.",
            where=where,
            remedy=f"use the mpt that wrote it ({_version(content)}), or a newer one",
        )
    return _build(RunReport, content, where)


def _is_shallow(content: Any) -> bool:
    """Whether `content` has at most `DEEPEST` levels: all that reads it may then recurse."""
    level = [content]
    for _ in range(DEEPEST):
        values = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for each in values for inner in each if isinstance(inner, dict | list)]
        if not level:
            return True
    return False


def _too_deep(where: str) -> ConfigurationError:
    return ConfigurationError("The report is nested too deeply.", where=where)


def _version(content: dict[str, Any]) -> str:
    """On one line, whatever the file says."""
    return " ".join(str(content.get("mpt_version", "unknown version")).split())


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of a dataclass's fields; to resolve them takes longer than to read a report."""
    return get_type_hints(kind)


def _build(kind: Any, content: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass `kind`."""
    hints = _hints(kind)
    values = {}
    for field in fields(kind):
        here = f"{where}: {field.name}" if kind is RunReport else f"{where}.{field.name}"
        if field.name in content:
            values[field.name] = _convert(hints[field.name], content[field.name], here)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigurationError("The report lacks a required key.", where=here)
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, which is one of those that `run_report` uses."""
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        if value is None:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(hint, value, where)
    if is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, where)
    if origin is list and isinstance(value, list):
        return [_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if type(value) is int and abs(value) > LARGEST:
        pass
    elif hint is float:
        value = decode(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigurationError(f"The report holds {value!r} where {_name(hint)} goes.", where=where)


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in names:
        return names[hint]
    return "a list" if get_origin(hint) is list else "an object"
