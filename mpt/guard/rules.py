"""What Hydra's part of a configuration may say; as plain values, which nothing here calls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from mpt.errors import ConfigurationError
from mpt.instantiate import admission, admits

OWN_CALLBACK = "mpt.composition.FolderNote"
HANDLERS = (
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "logging.StreamHandler",
)
FACTORIES = ("colorlog.ColoredFormatter",)  # of Hydra's own plugin for colours
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# A log file lies in the run's folder, and has a plain name.
LOG_FILE = re.compile(r"\$\{hydra\.runtime\.output_dir\}/(\$\{hydra\.job\.name\}|[\w.-])+")
PLAIN_NAME = re.compile(r"[\w.=+ -]+")
SUBMITIT_FOLDER = re.compile(r"\$\{hydra\.sweep\.dir\}/(?!.*\.\.)[\w./%=-]*")

# Keys of launchers and sweepers that are commands, code, or variables of the workers.
COMMANDS = (
    "additional_parameters",  # of sbatch, which has options that name programs
    "custom_search_space",
    "dashboard_host",  # of Ray: whoever reaches its port can run code
    "env",
    "env_setup",
    "initializer",
    "ray_aws",
    "runtime_env",
    "setup",
)

# A process obeys its environment: PYTHONPATH and LD_PRELOAD run code, PATH and XLA_FLAGS name
# programs. These only say how many, which device, how loud.
VARIABLES = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    "TF_GPU_THREAD_COUNT",
    "TF_GPU_THREAD_MODE",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)


def check_targets(value: Any, where: str, allow: tuple[str, ...]) -> None:
    """Refuse every `_target_` in `value` that is not ours or admitted."""
    for place, key, child in walk(value, where):
        path = str(child)
        if key == "_target_" and path != OWN_CALLBACK and not admits(path, allow):
            module = path.rpartition(".")[0] or path
            raise _refused(f"{path} is not code that a configuration may run", place, module)


def check_plugin(value: Any, where: str, allow: tuple[str, ...]) -> None:
    """Refuse code and commands in a launcher's or a sweeper's node.

    Its own `_target_` is left to Hydra, which takes installed plugins only.
    """
    if not isinstance(value, Mapping):
        return
    check_targets({k: v for k, v in value.items() if k != "_target_"}, where, allow)
    for place, key, child in walk(value, where):
        if key in COMMANDS and child not in (None, "", [], {}) and where not in allow:
            raise _refused(f"{place} can run commands", place, where)


def check_launcher(
    raw: Any, value: Any, where: str, typed: Sequence[str], allow: tuple[str, ...]
) -> None:
    """`check_plugin`, and what else leads to code with a launcher that we know.

    Args:
        raw: the node with its interpolations.
        value: the node without.
        typed: the overrides of the command line.
    """
    check_plugin(value, where, allow)
    if where in allow:
        return
    for place, _, child in walk(value, where):
        if isinstance(child, str) and any(mark in child for mark in "\n\r\0"):
            # In a script for sbatch a second line would be a command.
            raise _refused(f"{place} has several lines", place, where)
        # Whoever answers there gets the jobs, and is believed: answers are unpickled.
        elsewhere = place == f"{where}.ray.init.address" and child not in (None, "auto", "local")
        if elsewhere and not any(each.lstrip("+").startswith(f"{place}=") for each in typed):
            remedy = f"give it on the command line, {place}={child}"
            raise ConfigurationError(f"{place} leads elsewhere", where=place, remedy=remedy)
    folder = raw.get("submitit_folder") if isinstance(raw, Mapping) else None
    if folder is not None and SUBMITIT_FOLDER.fullmatch(str(folder)) is None:
        raise _refused("what lies in this folder is unpickled", f"{where}.submitit_folder", where)


def check_logging(value: Any, where: str, job_name: Any, allow: tuple[str, ...]) -> None:
    """Refuse what makes Python's logging call, import or write elsewhere.

    Args:
        value: unresolved: what an interpolation stands for may change until it is used.
        job_name: Hydra's name of the job, unresolved, which names log files.
    """
    if where in allow:
        return
    if isinstance(value, str):
        raise _refused("a logging configuration must be written out", where, where)
    for place, key, child in walk(value, where):
        if key == "class":
            fine = child in HANDLERS
        elif key == "()":
            fine = child in FACTORIES
        elif key == "filename":
            fine = isinstance(child, str) and LOG_FILE.fullmatch(child) is not None
            fine = fine and ".." not in child and PLAIN_NAME.fullmatch(str(job_name)) is not None
        elif isinstance(child, str):
            fine = child in STREAMS or not ("${" in child or "://" in child)
        else:
            fine = key != "."  # which sets any attribute
        if not fine:
            raise _refused(f"{child!r} can run code, or write outside of the run", place, where)


def check_variables(value: Any, where: str) -> None:
    """Refuse variables of the environment that a process obeys with more than a number."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{value!r} is no mapping of variables", where=where)
    for name in value:
        if name not in VARIABLES:
            raise ConfigurationError(
                f"A configuration may not set the variable {name}",
                where=f"{where}.{name}",
                allowed=VARIABLES,
                remedy=f"set it in front of the command: {name}=VALUE mpt train ...",
            )


def check_inside(value: Any, where: str) -> None:
    """Refuse a folder's name that leads out of the folder it is to lie in."""
    path = PurePosixPath(str(value))
    if path.is_absolute() or ".." in path.parts or "\0" in str(value):
        raise ConfigurationError(
            f"{str(value)!r} leads out of its folder",
            where=where,
            remedy="name a folder below it; run_dir and hydra.sweep.dir may be anywhere",
        )


def check_path(value: Any, where: str) -> None:
    """Refuse a path that no file system takes."""
    try:
        possible = b"\0" not in os.fsencode(str(value))
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ConfigurationError(f"{str(value)!r} is no path", where=where)


def check_choices(choices: Mapping[Any, Any]) -> None:
    """Refuse a group's choice that is read from outside of the folders of configurations."""
    for group, chosen in choices.items():
        for choice in chosen if isinstance(chosen, list) else [chosen]:
            path = PurePosixPath(str(choice))
            if path.is_absolute() or ".." in path.parts:
                raise ConfigurationError(
                    f"{group} has no choice {str(choice)!r}: it leads out of the group's folder",
                    where=str(group),
                    remedy="add its folder by --config-dir DIR, and name it without a path",
                )


def check_source(path: str, allow: tuple[str, ...]) -> None:
    """Refuse a package in Hydra's search path that is not Hydra's: to search it is to import it."""
    if path.split(".")[0] not in ("", "hydra", "hydra_plugins") and not admits(path, allow):
        raise _refused(f"pkg://{path} would be imported", "hydra.searchpath", path)


def walk(value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Every key below `value`: its place, dotted, the key itself, and what it holds."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    for key, child in items:
        yield f"{where}.{key}", key, child
        yield from walk(child, f"{where}.{key}")


def _refused(message: str, where: str, module: str) -> ConfigurationError:
    return ConfigurationError(message, where=where, remedy=admission(module))
