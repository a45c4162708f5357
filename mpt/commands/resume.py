"""`resume=PATH` on the command line of `mpt train`: a run that is to go on, or a sweep."""

import os
from pathlib import Path
from typing import Any

from mpt import composition, run_configuration
from mpt.commands import Options
from mpt.commands.jobs import checked
from mpt.commands.outcomes import JOBS, PLAN, SWEEP
from mpt.commands.sweep_task import sets
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.isolation import Job
from mpt.schema import TrainConfig


def take(overrides: list[str]) -> tuple[list[str], Path | None]:
    """Take `resume=PATH` off the overrides: Hydra and the runs themselves have no use for it.

    Raises:
        ConfigurationError: the path is not quoted as it must be.
    """
    named = [each for each in overrides if sets(each, "resume")]
    kept = [each for each in overrides if not sets(each, "resume")]
    value = _value(named[-1]) if named else None
    if value is None:
        return kept, None
    if not isinstance(value, str):
        raise _to_be_quoted(named[-1])
    if not value.strip():
        raise ConfigurationError("resume names no folder.", where="resume")
    return kept, Path(value)


def is_sweep(folder: Path) -> bool:
    """Whether `folder` is a sweep's."""
    return os.path.isfile(folder / SWEEP) or os.path.isfile(folder / JOBS / PLAN)


def of_sweep(overrides: list[str], folder: Path) -> list[str]:
    """The overrides with which Hydra composes the sweep in `folder` again.

    Raises:
        ConfigurationError: another folder is named beside it.
    """
    if any(sets(each, "hydra.sweep.dir") for each in overrides):
        raise ConfigurationError(
            "resume names the sweep's folder; hydra.sweep.dir names another.",
            where="hydra.sweep.dir",
            remedy="leave hydra.sweep.dir out",
        )
    return [*overrides, composition.assign("hydra.sweep.dir", folder.resolve())]


def of_run(
    folder: Path, flags: list[str], overrides: list[str], command: list[str], options: Options
) -> Job:
    """The job of the run in `folder`, with its own configuration and the `overrides`.

    Args:
        flags: Hydra's, of which none has a place here.
        overrides: `key=value` of keys that the configuration has.

    Raises:
        ConfigurationError: there is no run, or an override is none of a value.
    """
    values = run_configuration.read(folder, resuming=True)
    if flags:
        raise ConfigurationError(
            f"{flags[0]} has no place beside resume=RUN: the run has its configuration already.",
            where=f"resume={folder}",
            remedy="leave it out; a sweep is resumed by its own folder",
        )
    for override in overrides:
        assign(values, override, allowed=sorted(run_configuration.FREE))
    values["run_dir"] = str(folder.resolve())
    return job_with(values, folder, overrides, command, options)


def job_with(
    values: dict[str, Any],
    folder: Path,
    overrides: list[str],
    command: list[str],
    options: Options,
) -> Job:
    """A job of the run in `folder`, with the configuration `values`, which `overrides` are in.

    Raises:
        ConfigurationError: the values are no configuration, or name code that is not admitted.
    """
    from omegaconf import OmegaConf

    config = checked(_typed(values, overrides), options)
    plain = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(plain, dict)
    return Job(
        config={str(key): value for key, value in plain.items()},
        run_dir=str(folder.resolve()),
        command=command,
        composed={
            "config": OmegaConf.to_yaml(OmegaConf.create(plain)),
            "overrides": OmegaConf.to_yaml([*run_configuration.overrides(folder), *overrides]),
        },
        verbosity=options.verbosity,
        allow=options.allow,
        debug=options.debug,
    )


def _typed(values: dict[str, Any], overrides: list[str]) -> TrainConfig:
    try:
        return to_config(values)
    except ConfigurationError:
        raise
    except Exception as error:  # OmegaConf's: a value of another type, an interpolation
        raise composition.explain(error, [], overrides) from error


def assign(values: dict[str, Any], override: str, *, allowed: list[str]) -> None:
    """Set the one key that `override` names.

    Args:
        allowed: named where there is no such key.

    Raises:
        ConfigurationError: it names none, or no value.
    """
    key, equals, _ = override.partition("=")
    node: Any = values
    *parents, last = key.split(".")
    for name in parents:
        node = node.get(name) if isinstance(node, dict) else None
    if not equals or not isinstance(node, dict) or last not in node or isinstance(node[last], dict):
        raise ConfigurationError(
            f"{override} changes no value of the run that goes on.",
            where=key,
            allowed=allowed,
            value=key,
        )
    node[last] = _value(override)


def _value(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    try:
        parsed = OverridesParser.create().parse_override(override)
        value = parsed.value()
    except Exception as error:
        raise _to_be_quoted(override) from error
    if parsed.is_sweep_override():
        key = override.partition("=")[0]
        raise ConfigurationError(
            "This names several values; a run that goes on has one.",
            where=override,
            remedy=f"if the comma is part of the value, write \"{key}='VALUE'\"",
        )
    return value.text if isinstance(value, QuotedString) else value


def _to_be_quoted(override: str) -> ConfigurationError:
    key = override.partition("=")[0].lstrip("+")
    return ConfigurationError(
        "This value has characters that must be quoted.",
        where=override,
        remedy=f"write \"{key}='VALUE'\"",
    )
