"""Keys of the configuration, and the values that each may take, by schema and files."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from mpt import choices, yaml_files
from mpt.config import OPEN_KEYS, default_choices
from mpt.schema import TrainConfig


class Taken(Protocol):
    """A flag's value: how it is made of a text, and what it may be."""

    convert: Callable[[str], Any] | None
    choices: tuple[Any, ...]


@dataclass(frozen=True)
class Key:
    """A key by its whole name, and what it is for."""

    text: str
    help: str = ""


def names(start: str, given: Sequence[str], folders: Sequence[Path]) -> Iterator[Key]:
    """Keys that begin as `start` does, one level at a time: "trainer.", then "trainer.steps".

    Args:
        start: what is typed.
        given: the other overrides, which choose what the open groups hold.
        folders: of the user's own configuration files.
    """
    group, dot, _ = start.partition(".")
    if dot:
        yield from (key for key in _inside(group, given, folders) if key.text.startswith(start))
        return
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(TrainConfig)}
    for name in dict.fromkeys((*default_choices(), "recipe", *helps)):
        yield Key(name, helps[name])
    for name in default_choices():
        if start and name.startswith(start):
            yield from _inside(name, given, folders)


def values(key: str, given: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """What may follow `key=`, with what each is; empty where anything may."""
    if key == "recipe":
        return {name: choices.headline(file) for name, file in choices.recipes(folders).items()}
    if key in default_choices():
        found = choices.choices(key, folders)
        return {name: choices.headline(file) for name, file in found.items()}
    allowed = OPEN_KEYS.get(key)
    if allowed is not None:
        kinds, bounds = allowed
        return dict.fromkeys(bounds.get("choices", _booleans(kinds)), "")
    field, kind = _field(key)
    if field is None:
        return {}
    of_type = typing.get_args(kind) or (kind,)
    texts = [str(choice) for choice in field.metadata.get("choices", ())] or _booleans(of_type)
    if texts and type(None) in of_type:
        texts = [*texts, "null"]
    return dict.fromkeys(texts, "")


def _booleans(kinds: Sequence[type]) -> list[str]:
    return ["true", "false"] if bool in kinds else []


def _inside(group: str, given: Sequence[str], folders: Sequence[Path]) -> Iterator[Key]:
    """The keys of a group: of the schema, or, of an open one, of the choice that is made."""
    kind = typing.get_type_hints(TrainConfig).get(group)
    if dataclasses.is_dataclass(kind):
        yield from _of_schema(kind, group)
        return
    default = default_choices().get(group)
    chosen = dict(word.partition("=")[::2] for word in given).get(group, default)
    file = choices.choices(group, folders).get(str(chosen))
    if file is not None:
        try:
            content = yaml.safe_load(yaml_files.read(file))
        except (ValueError, yaml.YAMLError):  # the run itself will say what is wrong
            return
        yield from _of_file(content, group)


def _of_schema(kind: Any, prefix: str) -> Iterator[Key]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _of_schema(hints[field.name], name)
        else:
            yield Key(name, field.metadata.get("help", ""))


def _of_file(content: Any, prefix: str) -> Iterator[Key]:
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if name in ("_target_", "name", "defaults"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _of_file(value, f"{prefix}.{name}")
        else:
            yield Key(f"{prefix}.{name}")


def _field(key: str) -> tuple[dataclasses.Field[Any] | None, Any]:
    """The schema's field of a dotted key, and its type; None where it has none."""
    kind: Any = TrainConfig
    field: dataclasses.Field[Any] | None = None
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return None, None
        field = {each.name: each for each in dataclasses.fields(kind)}.get(name)
        if field is None:
            return None, None
        kind = typing.get_type_hints(kind)[name]
    return field, kind
