"""YAML that others wrote: regular files of a limited size, whose aliases do not explode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mpt.errors import ConfigurationError
from mpt.report import read_regular

LARGEST_BYTES = 2**20
MOST_VALUES = 100_000
DEEPEST = 50
"""Levels of lists and mappings; OmegaConf takes ten of Python's frames for each."""


def plain(path: str | Path) -> Any:
    """What a YAML file holds, as plain values; what looks like an interpolation is a text.

    Raises:
        ConfigurationError: as `read`.
    """
    from omegaconf._utils import get_yaml_loader

    text = read(path)
    try:
        return yaml.load(text, Loader=get_yaml_loader())  # a safe loader, with OmegaConf's numbers
    except (yaml.YAMLError, ValueError) as error:
        raise unreadable(path, error) from error


def literal(value: Any) -> Any:
    """`value` such that OmegaConf takes each text as it is, also one with ${...} in it."""
    if isinstance(value, dict):
        return {key: literal(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [literal(child) for child in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def read(path: str | Path) -> str:
    """The text of a YAML file that is safe to load.

    Raises:
        ConfigurationError: it cannot be read, is no YAML, or is too large, its aliases included.
    """
    try:
        content = read_regular(path, LARGEST_BYTES)
    except OSError as error:
        raise ConfigurationError(
            f"No configuration can be read: {error.strerror}.", where=str(path)
        ) from error
    try:
        text = content.decode("utf-8")
        _check_size(text, str(path))
    except ConfigurationError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise unreadable(path, error) from error
    return text


def unreadable(path: str | Path, error: Exception) -> ConfigurationError:
    """The error for a file that the YAML reader refuses, with the line where it says one."""
    mark = getattr(error, "problem_mark", None)
    place = str(path) if mark is None else f"{path}:{mark.line + 1}"
    said = getattr(error, "problem", None) or str(error).splitlines()[0]
    return ConfigurationError(f"This is no plain YAML: {said}.", where=place)


def _check_size(text: str, where: str) -> None:
    """Count values as OmegaConf will, which copies what an alias stands for, without copying."""
    entered: list[tuple[str | None, int]] = []  # collections: their anchors, and values so far
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            entered.append((event.anchor, 1))
            if len(entered) > DEEPEST:
                raise ConfigurationError(
                    f"A configuration of over {DEEPEST} levels is not read.", where=where
                )
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in entered):
                raise ConfigurationError(f"*{event.anchor} stands for itself.", where=where)
            anchor, size = None, sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = entered.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if entered:
            entered[-1] = (entered[-1][0], entered[-1][1] + size)
        if size > MOST_VALUES:
            raise ConfigurationError(
                f"A configuration of over {MOST_VALUES} values is not read.", where=where
            )
