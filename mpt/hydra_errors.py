"""What Hydra and OmegaConf refuse, said as a `ConfigurationError`: key, value, nearest, remedy."""

import dataclasses
import itertools
import re
import typing
from pathlib import Path
from typing import Any

import yaml

from mpt import yaml_files
from mpt.config import configs_dir, default_choices, expected_type, recipes_dir
from mpt.errors import ConfigurationError, nearest
from mpt.schema import TrainConfig

OPEN_GROUPS = ("model", "dataset", "optimizer")


def explain(error: Exception, flags: list[str], overrides: list[str]) -> ConfigurationError:
    """The `ConfigurationError` that says what `error` means for the user's command line.

    Args:
        error: what Hydra, OmegaConf, the YAML reader or the file system raised.
        flags: Hydra's flags in use, for --config-dir.
        overrides: the overrides in use.
    """
    from hydra import errors as hydra
    from omegaconf.errors import OmegaConfBaseException

    if (refusal := _refusal_in(error)) is not None:
        return refusal
    if isinstance(error, RecursionError):
        return ConfigurationError("the configuration is nested too deeply", where="command line")
    if isinstance(error, hydra.OverrideParseException):
        return _not_an_override(error)
    if isinstance(error, hydra.MissingConfigException):
        return _no_such_choice(error)
    if isinstance(error, OSError):
        return ConfigurationError(
            f"the run's folder cannot be made: {error.strerror or error}",
            where=f"run_dir ({error.filename})",
            remedy="choose a folder that can be written by run_dir=PATH",
        )
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return yaml_files.unreadable(error.problem_mark.name, error)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    text = str(error)
    if found := re.match(r"Could not override '([^']*)'", text):
        return _no_such_key(getattr(cause, "full_key", None) or found[1], flags, overrides)
    if isinstance(cause, OmegaConfBaseException):
        return _refused_value(cause, text, flags, overrides)
    return _composition(text)


def _refusal_in(error: BaseException) -> ConfigurationError | None:
    """What our own code said, though OmegaConf or Hydra turned it into an error of theirs."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:  # OmegaConf may raise one that leads to itself
        if isinstance(found, ConfigurationError):
            return found
        chain.append(found)
        found = found.__cause__ or found.__context__
    return None


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "the configuration cannot be composed"


def _not_an_override(error: Any) -> ConfigurationError:
    word = str(error.override)
    if "=" in word.lstrip("+~"):
        return ConfigurationError(
            f"{word!r} cannot be read: {_first_line(error.message)}",
            where="command line",
            remedy="quote what holds commas, braces or spaces: \"key='a,b'\"",
        )
    groups = sorted(path.parent.name for path in configs_dir().glob(f"*/{word}.yaml"))
    remedy = f"write {groups[0]}={word}" if groups else "write KEY=VALUE"
    return ConfigurationError(f"{word!r} is not an override", where="command line", remedy=remedy)


def _no_such_choice(error: Any) -> ConfigurationError:
    missing = str(error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    options = list(error.options or ())
    if not options and not group:
        return ConfigurationError(_first_line(str(error)), where="command line")
    return ConfigurationError(
        f"{group} has no choice {choice!r}", where=group, allowed=options, value=choice
    )


def unknown_flag(word: str, following: str, known: list[str]) -> ConfigurationError:
    """The error for a flag that there is not, with the override or the flag that it may mean.

    Args:
        word: as it was typed, "--steps" or "--steps=50".
        following: the next word of the command line; may be empty.
        known: the flags that there are.
    """
    flag, equals, value = word.partition("=")
    error = ConfigurationError(
        f"unknown flag {flag}", where="command line", allowed=known, value=flag
    )
    key = _key_of_flag(flag)
    if key is not None:
        if not equals and not following.startswith("-") and "=" not in following:
            value = following
        error.suggestion = f"{key}={value or 'VALUE'}"
    return error


def _key_of_flag(flag: str) -> str | None:
    """The key that is called so, else the only one whose last part is."""
    name = flag.lstrip("-").replace("-", "_")
    keys = _keys([], [])
    if name in keys:
        return name
    ending = {key for key in keys if key.endswith(f".{name}")}
    return ending.pop() if len(ending) == 1 else None


def _no_such_key(key: str, flags: list[str], overrides: list[str]) -> ConfigurationError:
    """An unknown key, with the nearest of its siblings, else the nearest key of all."""
    if key.startswith("hydra."):
        return ConfigurationError(
            f"unknown key {key!r}", where=key, remedy="`mpt train --cfg hydra` shows Hydra's keys"
        )
    known = _keys([o for o in overrides if "{" not in o and _key_of(o) != key], flags)
    parent = key.rpartition(".")[0]
    while parent and not any(name.startswith(f"{parent}.") for name in known):
        parent = parent.rpartition(".")[0]
    prefix = f"{parent}." if parent else ""
    siblings = sorted(
        {
            prefix + name.removeprefix(prefix).split(".")[0]
            for name in known
            if name.startswith(prefix)
        }
    )
    remedy = "`mpt train --cfg job` shows every key"
    if parent.split(".")[0] in OPEN_GROUPS:
        remedy += "; another argument of the builder is added by a + in front"
    error = ConfigurationError(f"unknown key {key!r}", where=key, allowed=siblings, remedy=remedy)
    error.suggestion = _nearest_key(key, prefix, siblings, known)
    return error


def _nearest_key(key: str, prefix: str, siblings: list[str], known: list[str]) -> str | None:
    """A sibling spelled alike, else any key whose last part is, or whose initials these are."""
    leaf = key.rpartition(".")[2]
    local = nearest(leaf, [name.removeprefix(prefix) for name in siblings])
    if local:
        return prefix + local
    leaves: dict[str, str] = {}
    for name in known:
        leaves.setdefault(name.rpartition(".")[2], name)
    initials = {
        "".join(word[:1] for word in last.split("_")): last for last in leaves if "_" in last
    }
    found = initials.get(leaf) or nearest(leaf, leaves)
    return leaves[found] if found else None


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _keys(overrides: list[str], flags: list[str]) -> list[str]:
    """All dotted keys of the configuration: the schema's, and those of the open groups' files.

    Read without Hydra, which would take a third of a second to compose once more.
    """
    found: list[str] = []

    def walk_schema(schema: Any, prefix: str) -> None:
        for name, hint in typing.get_type_hints(schema).items():
            found.append(f"{prefix}{name}")
            if dataclasses.is_dataclass(hint):
                walk_schema(hint, f"{prefix}{name}.")

    def walk(node: dict[str, Any], prefix: str) -> None:
        for name, child in node.items():
            found.append(f"{prefix}{name}")
            if isinstance(child, dict):
                walk(child, f"{prefix}{name}.")

    walk_schema(TrainConfig, "")
    folders = [*map(Path, _config_dirs(flags)), configs_dir()]
    for group, choice in _choices(overrides).items():
        files = [folder / group / f"{choice}.yaml" for folder in folders]
        file = next((file for file in files if file.is_file()), None)
        if group in OPEN_GROUPS and file is not None:
            walk(yaml.safe_load(yaml_files.read(file)) or {}, f"{group}.")
    return found


def _choices(overrides: list[str]) -> dict[str, str]:
    """Each group's choice: the default, a recipe's, or the command line's."""
    given = {_key_of(o): o.partition("=")[2] for o in overrides}
    choices = default_choices()
    recipe = recipes_dir() / f"{given.get('recipe')}.yaml"
    if recipe.is_file():
        choices |= dict(re.findall(r"override /(\w+): (\w+)", recipe.read_text()))
    return choices | {group: given[group] for group in choices if group in given}


def _config_dirs(flags: list[str]) -> list[str]:
    return [value for flag, value in itertools.pairwise(flags) if flag in ("--config-dir", "-cd")]


def _refused_value(
    cause: Any, text: str, flags: list[str], overrides: list[str]
) -> ConfigurationError:
    from omegaconf import errors as omegaconf

    key = str(getattr(cause, "full_key", "") or "")
    if isinstance(cause, omegaconf.MissingMandatoryValue):
        return ConfigurationError(
            f"{key} must be given", where=key, remedy=f"add {key}=VALUE to the command"
        )
    if isinstance(cause, omegaconf.InterpolationResolutionError):
        return ConfigurationError(
            _first_line(str(cause)), where=key or _source_of(cause, overrides)
        )
    if isinstance(cause, omegaconf.ConfigKeyError | omegaconf.ConfigAttributeError):
        return _no_such_key(key, flags, overrides)
    expected = expected_type(key)
    message = _first_line(str(cause))
    value = re.match(r"Value '(.*?)' of type", message)
    given = next((o.partition("=")[2] for o in overrides if _key_of(o) == key), None)
    if expected and (value or given is not None):
        message = f"{key}={value[1] if value else given} has the wrong type"
    elif text.startswith("In '"):
        message = f"{text.split(':')[0]}: {message}"
    return ConfigurationError(message, where=key or None, allowed=[expected] if expected else ())


def _source_of(cause: Any, overrides: list[str]) -> str | None:
    """The override that holds the interpolation which `cause` could not resolve."""
    found = re.search(r"'([^']+)'", str(cause))
    return next((_key_of(o) for o in overrides if found and found[1] in o), None)


def _composition(text: str) -> ConfigurationError:
    """Hydra's own complaints, which carry no structure: only their text."""
    if found := re.match(r"\s*Ambiguous value for argument '([^']*)'", text):
        key, _, value = found[1].partition("=")
        return ConfigurationError(
            f"{key} is given several values: {value}",
            where=key,
            remedy=f"add -m to run each of them, or write \"{key}='{value}'\" for one text",
        )
    if found := re.match(r"Sweep parameters '([^']*)' requires", text):
        return ConfigurationError(
            f"{found[1]} asks for several runs", where="command line", remedy="add -m"
        )
    if found := re.match(r"\s*Could not append to config. An item is already at '([^']*)'", text):
        return ConfigurationError(
            f"{found[1]} is already a key, and + adds a new one",
            where=found[1],
            remedy=f"leave out the +: {found[1]}=VALUE",
        )
    if found := re.match(r"In '([^']*)': (\w+) raised while composing config:\n(.*)", text):
        return ConfigurationError(found[3], where=f"{found[1]}.yaml")
    return ConfigurationError(_first_line(text), where="command line")
