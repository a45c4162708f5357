"""The find as a choice of the group `precision`, and the command that trains with it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt import composition
from mpt.errors import ConfigurationError
from mpt.isolation import Job

NAME = "bisected"
FILE = f"precision/{NAME}.yaml"


def text(precision: Mapping[str, Any], comments: Sequence[str]) -> str:
    """The YAML of the group's choice, below `comments`."""
    from omegaconf import OmegaConf

    head = "".join(f"# {line}\n" for line in comments)
    return head + OmegaConf.to_yaml(OmegaConf.create(dict(precision)))


def command(
    job: Job, argv: Sequence[str], precision: Mapping[str, Any], folder: Path
) -> str | None:
    """The command line that trains as `argv` asks, under `precision`; checked by composing it.

    Args:
        argv: Hydra's flags and overrides, as `mpt bisect` took them.
        precision: what FILE in `folder` holds.

    Returns:
        The shortest of three that composes to it: the folder by --config-dir, where that flag is
        free; by Hydra's search path; all keys spelled out, for a recipe that sets some itself.
        None where none does.
    """
    flags, overrides = composition.arrange(list(argv))
    kept = [o for o in overrides if o in argv and not _sets(o, "precision", "run_dir")]
    if any(_sets(override, "recipe") for override in kept):
        kept.append("hydra.mode=RUN")  # a recipe may sweep
    place = _shown(folder)
    chosen = [f"precision={NAME}", *kept]
    ways = [
        ([*flags, "--config-dir", place], chosen),
        (flags, [f"hydra.searchpath=[{quoted(place)}]", *chosen]),
        (flags, [*kept, *spelled_out(precision)]),
    ]
    if {"--config-dir", "-cd"} & set(flags):
        ways = ways[1:]
    wanted = {**job.config, "precision": dict(precision), "run_dir": None}
    for words in ways:
        if _composed(*words, folder, job.allow) == wanted:
            allow = [word for entry in job.allow for word in ("--allow", entry)]
            return shlex.join(["mpt", "train", *allow, *words[0], *words[1]])
    return None


def spelled_out(precision: Mapping[str, Any]) -> list[str]:
    """Overrides that set every key of the group."""
    return [f"precision.{key}={_literal(value)}" for key, value in precision.items()]


def quoted(text: str) -> str:
    """`text` as a quoted string of Hydra's override grammar."""
    # Only backslashes in front of a quote are special there.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _literal(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    return quoted(value) if isinstance(value, str) and not value.isidentifier() else str(value)


def _sets(override: str, *groups: str) -> bool:
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    return key.partition(".")[0] in groups


def _composed(
    flags: list[str], overrides: list[str], folder: Path, allow: tuple[str, ...]
) -> dict[str, Any] | None:
    """What this command line composes to, without its run_dir; None where it does not."""
    from omegaconf import OmegaConf

    found: list[dict[str, Any]] = []

    def note(config: Any) -> None:
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        found.append({**{str(key): value for key, value in values.items()}, "run_dir": None})

    # Hydra makes the folder of what it composes: the one that is there.
    settled = composition.settle_length(overrides)
    place = f"run_dir={quoted(str(folder))}"
    try:
        composition.drive(flags, [*settled, "hydra.mode=RUN", place], note, allow=allow)
    except ConfigurationError:
        return None
    return found[0] if found else None


def _shown(folder: Path) -> str:
    """`folder` from here, where it lies below."""
    here = Path.cwd().resolve()
    path = folder.resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
