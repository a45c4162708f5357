"""A subcommand's own flags, taken out of its command line before Hydra sees the rest."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mpt.common_flags import COMMON
from mpt.errors import ConfigurationError


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        default: its value where it is not given.
        convert: makes the value of the text after it; None: the flag takes no text and is True.
        choices: the values that are allowed; empty: all.
        least: the smallest value that is allowed.
    """

    default: Any = False
    convert: Callable[[str], Any] | None = None
    choices: tuple[Any, ...] = ()
    least: float | None = None


def own_flags(task: str) -> Mapping[str, Flag]:
    """The flags of a subcommand's own, or of one of its tasks such as "doctor data"."""
    module = importlib.import_module(f"mpt.commands.{task.split()[0]}")
    flags: Mapping[str, Flag] = getattr(module, "FLAGS", {})
    return getattr(module, "FLAGS_OF_TASKS", {}).get(task, flags)


def take(argv: list[str], flags: Mapping[str, Flag]) -> tuple[dict[str, Any], list[str]]:
    """Split `argv` into the values of `flags` and the other words.

    Args:
        flags: by spelling, "--steps" say.

    Returns:
        Values by keyword ("steps"), and the rest in its order.

    Raises:
        ConfigurationError: a flag without its value, or a value that is none.
    """
    values = {_keyword(name): flag.default for name, flag in flags.items()}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if name not in flags:
            rest.append(word)
            continue
        flag = flags[name]
        if flag.convert is None:
            if equals:
                raise ConfigurationError(f"{name} takes no value", where="command line")
            values[_keyword(name)] = True
        else:
            values[_keyword(name)] = _value(name, flag, text if equals else next(words, ""))
    return values, rest


def take_paths(
    command: str, argv: list[str], flags: Mapping[str, Flag]
) -> tuple[dict[str, Any], list[str]]:
    """`take` for a command of paths: what is left are paths, and no further flags.

    Raises:
        ConfigurationError: as `take`, and for a flag that the command does not have.
    """
    values, paths = take(argv, flags)
    refuse_flags(command, paths, flags)
    return values, paths


def refuse_flags(command: str, words: Iterable[str], flags: Iterable[str]) -> None:
    """Raise ConfigurationError where one of the words is a flag, which the command has not.

    Args:
        flags: that it has of its own.
    """
    for word in words:
        if word.startswith("-"):
            raise ConfigurationError(
                f"mpt {command} has no flag {word}",
                where="command line",
                allowed=[*flags, *COMMON],
                value=word.partition("=")[0],
            )


def _value(name: str, flag: Flag, text: str) -> Any:
    assert flag.convert is not None
    if not text or text.startswith("--"):
        raise ConfigurationError(f"{name} needs a value", where="command line")
    try:
        value = flag.convert(text)
    except ValueError:
        kind = "a whole number" if flag.convert is int else "a number"
        raise ConfigurationError(
            f"{name}={text} is not {kind}", where="command line", allowed=[kind]
        ) from None
    if flag.choices and value not in flag.choices:
        raise ConfigurationError(
            f"{name} {text} is not a choice",
            where="command line",
            allowed=flag.choices,
            value=text,
        )
    if flag.least is not None and not value >= flag.least:
        raise ConfigurationError(
            f"{name}={text} is out of range",
            where="command line",
            allowed=[f"at least {flag.least:g}"],
        )
    return value


def _keyword(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
