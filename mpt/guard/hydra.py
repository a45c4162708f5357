"""The guard's places in Hydra: where it opens a file or a package, and where it has composed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mpt import yaml_files
from mpt.config import configs_dir
from mpt.errors import ConfigurationError
from mpt.guard import rules

# What a configuration may read of the environment: where data lies and who runs it, no secrets.
READABLE = (
    "CUDA_VISIBLE_DEVICES",
    "DATA",
    "DATA_DIR",
    "HOME",
    "HOSTNAME",
    "KERAS_HOME",
    "LOGNAME",
    "OMP_NUM_THREADS",
    "PWD",
    "SCRATCH",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_ID",
    "SLURM_TMPDIR",
    "TMPDIR",
    "USER",
    "WORK",
)
MOST_RESOLVED = 5_000
"""Interpolations of one configuration, however often each is looked at."""
MOST_NESTED = 200
"""Interpolations within one; each may hold several, and so on."""
_NO_DEFAULT = object()


class _State:
    """What is admitted while the guard is up; None: it is not."""

    allow: tuple[str, ...] | None = None
    resolved = 0
    nested: int | None = None  # None: none is being resolved


@contextmanager
def guarded(allow: tuple[str, ...]) -> Iterator[None]:
    """Look at everything that Hydra composes meanwhile.

    Args:
        allow: what is admitted: modules, `hydra.job_logging`, `hydra.launcher` and the like, and
            `env:NAME`, a variable of the environment to be read.
    """
    before = _State.allow
    install(allow)
    try:
        yield
    finally:
        _State.allow = before


@contextmanager
def lifted() -> Iterator[None]:
    """Leave what the user's own code does with Hydra and OmegaConf to itself."""
    before, _State.allow = _State.allow, None
    try:
        yield
    finally:
        _State.allow = before


def install(allow: tuple[str, ...]) -> None:
    """Put the guard up for the rest of this process, as in a launcher's worker."""
    _hook()
    _State.allow, _State.resolved = allow, 0


@functools.cache
def _hook() -> None:
    """Replace the methods of Hydra's and OmegaConf's that the guard stands behind, once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins
    from omegaconf import Container, OmegaConf

    Plugins.instance()  # makes the classes of all sources, anew where they were there before
    sources: Any = SourcesRegistry.instance()
    package, folder = sources.resolve("pkg"), sources.resolve("file")
    compose: Any = ConfigLoaderImpl.load_configuration
    open_package, open_file = package.__init__, folder.load_config
    resolve: Any = Container.resolve_parse_tree

    @functools.wraps(compose)
    def load_configuration(self: Any, *args: Any, **kwargs: Any) -> Any:
        _State.resolved = 0
        config = compose(self, *args, **kwargs)
        if _State.allow is not None:
            typed = kwargs.get("overrides", args[1] if len(args) > 1 else ())
            check(config, typed, _State.allow)
        return config

    @functools.wraps(open_package)
    def package_source(self: Any, provider: str, path: str) -> None:
        open_package(self, provider=provider, path=path)
        if _State.allow is not None:
            rules.check_source(self.path, _State.allow)

    @functools.wraps(open_file)
    def load_config(self: Any, config_path: str) -> Any:
        file = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        ours = file.startswith(f"{configs_dir()}{os.sep}")
        if _State.allow is not None and not ours and os.path.exists(file):
            yaml_files.read(file)
        return open_file(self, config_path)

    @functools.wraps(resolve)
    def resolve_parse_tree(self: Any, *args: Any, **kwargs: Any) -> Any:
        outermost = _State.nested is None
        _State.nested = (_State.nested or 0) + 1
        _State.resolved += 1
        try:
            if _State.allow is not None and (
                _State.nested > MOST_NESTED or _State.resolved > MOST_RESOLVED
            ):
                raise ConfigurationError("The interpolations multiply.", where="${...}")
            return resolve(self, *args, **kwargs)
        finally:
            if outermost:
                _State.nested = None

    ConfigLoaderImpl.load_configuration = load_configuration
    package.__init__ = package_source
    folder.load_config = load_config
    Container.resolve_parse_tree = resolve_parse_tree  # type: ignore[method-assign]
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


def check(config: Any, typed: Sequence[str], allow: tuple[str, ...]) -> None:
    """Refuse a composed configuration whose part for Hydra would run code or leave its folders.

    Args:
        config: as Hydra composed it; of no job yet, or of a sweep's.
        typed: the overrides that it was composed with.
        allow: what is admitted.

    Raises:
        ConfigurationError: what, where, and what would admit it.
        omegaconf.errors.OmegaConfBaseException: an interpolation cannot be resolved.
    """
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(raw, dict)
    rules.check_choices(_resolved(config.hydra.runtime.choices))
    rules.check_targets(_resolved(config.hydra.callbacks), "hydra.callbacks", allow)
    rules.check_plugin(_resolved(config.hydra.sweeper), "hydra.sweeper", allow)
    launcher = _resolved(config.hydra.launcher)
    rules.check_launcher(raw["launcher"], launcher, "hydra.launcher", typed, allow)
    for key in ("hydra_logging", "job_logging"):
        rules.check_logging(raw[key], f"hydra.{key}", raw["job"].get("name"), allow)
    rules.check_variables(raw["job"]["env_set"], "hydra.job.env_set")
    if raw["output_subdir"] is not None:
        rules.check_inside(raw["output_subdir"], "hydra.output_subdir")
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if (path := _text(config, key)) is not None:
            rules.check_path(path, key)
    if (subdir := _subdir(config)) is not None:
        rules.check_inside(subdir, "hydra.sweep.subdir")
    if raw["job"]["chdir"] not in (None, False):
        raise ConfigurationError(
            "Paths are relative to where the command is given.",
            where="hydra.job.chdir",
            allowed=[False],
        )


def _resolved(node: Any) -> Any:
    """`node` in plain values; as it is written where something in it cannot be told yet.

    Hydra, too, resolves all of such a node before it calls what that names.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=False)


def _subdir(config: Any) -> str | None:
    """Where a sweep's first job would lie; None where that cannot be told."""
    from omegaconf import OmegaConf, open_dict

    job, before = config.hydra.job, OmegaConf.to_container(config.hydra.job, resolve=False)
    assert isinstance(before, dict)
    try:
        with open_dict(job):
            job.num, job.id = 0, "0"
        return _text(config, "hydra.sweep.subdir")
    finally:
        with open_dict(job):
            job.num, job.id = before["num"], before["id"]


def _text(config: Any, key: str) -> str | None:
    """The text that `key` comes to; None where that cannot be told yet."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return str(OmegaConf.select(config, key))
    except OmegaConfBaseException:
        return None


def _variable(key: str, default: Any = _NO_DEFAULT) -> str | None:
    """OmegaConf's own `oc.env`, of readable variables only while the guard is up."""
    from omegaconf.resolvers.oc import env

    if _State.allow is not None and key not in (*READABLE, *_variables(_State.allow)):
        raise ConfigurationError(
            f"A configuration may not read the variable {key}, which might be a secret.",
            where=f"${{oc.env:{key}}}",
            allowed=READABLE,
            remedy=f"if it is none, add: --allow env:{key}",
        )
    return env(key) if default is _NO_DEFAULT else env(key, default)


def _variables(allow: tuple[str, ...]) -> list[str]:
    return [entry.removeprefix("env:") for entry in allow if entry.startswith("env:")]
