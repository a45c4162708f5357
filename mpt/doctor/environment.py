"""The interpreter, the packages, and the variables that change what they do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from mpt.doctor.facts import Environment, Package

DISTRIBUTION = "mpt-keras"
# Of the same import names as ours: whichever was installed last has the files.
IN_THE_WAY = ("mpt", "tensorflow-cpu", "tensorflow-intel", "tf-nightly", "keras-nightly")
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "DNNL_MAX_CPU_ISA",
    "KERAS_BACKEND",
    "MPT_ALLOW",
    "MPT_CACHE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_MAX_CPU_ISA",
    "TF_CONFIG",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_USE_LEGACY_KERAS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


def gather(variables: Mapping[str, str] | None = None) -> Environment:
    """Look at this interpreter and the current folder.

    Args:
        variables: of the process; None takes this one's.
    """
    given = os.environ if variables is None else variables
    folder = _current()
    return Environment(
        python=platform.python_version(),
        executable=sys.executable,
        packages=packages(),
        others=tuple(name for name in IN_THE_WAY if _version(name) is not None),
        variables={name: given[name] for name in VARIABLES if given.get(name)},
        folder=None if folder is None else str(folder),
        folder_writable=folder is not None and _writable(folder),
        folder_free_bytes=None if folder is None else _free(folder),
    )


def packages() -> tuple[Package, ...]:
    """What mpt requires, its extras left out; empty where it is no installed distribution."""
    try:
        wanted = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    found = []
    for line in wanted:
        requirement, _, marker = line.partition(";")
        if "extra" in marker:
            continue
        match = re.match(r"([\w.-]+)\s*(.*)", requirement.strip())
        assert match is not None, line
        name, required = match.groups()
        installed = _version(name)
        found.append(Package(name, installed, required, _fits(installed, required)))
    return tuple(found)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(installed: str | None, required: str) -> bool | None:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # TensorFlow brings it, and TensorFlow may be what is missing
        return None if installed is not None else False
    return installed is not None and SpecifierSet(required).contains(installed, prereleases=True)


def _current() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
