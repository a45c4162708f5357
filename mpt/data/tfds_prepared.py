"""Where TensorFlow Datasets has prepared a dataset, and its view on it.

What is prepared is read without the code that prepared it: its files tell the splits, the shards
and the features. The package is optional. Features are classes that a file names, and reading them
imports them, so others than the package's own are refused; so are names of datasets whose code
would be downloaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mpt.errors import ConfigurationError, nearest

DEFAULT_FOLDER = "~/tensorflow_datasets"
FEATURES, INFO = "features.json", "dataset_info.json"
OWN_FEATURES = "tensorflow_datasets.core.features."
CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
LARGEST_JSON = 64 * 2**20
"""Bytes."""

NAMED = 12
WITH_ALLOW = (
    "load it in a function of your own, with --allow my.py dataset=python "
    "dataset.function=my.py:load"
)

_NAME, _CONFIG = re.compile(r"\w+"), re.compile(r"\w[\w+\-.]*")
_WANTED = re.compile(r"(\d+|\*)\.(\d+|\*)\.(\d+|\*)")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Reference:
    """A dataset, which TensorFlow Datasets writes as NAME/CONFIG:1.0.0.

    Attributes:
        name: of the dataset.
        config: of several that it has; None takes the only one.
        version: three numbers, or * for any; None takes the newest.
    """

    name: str
    config: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}{f':{self.version}' if self.version else ''}"


def package() -> Any:
    """The module tensorflow_datasets."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ConfigurationError(
            f"dataset=tfds needs a package that is not there: {error}",
            where="dataset",
            remedy="pip install tensorflow-datasets importlib_resources",
        ) from error
    return tensorflow_datasets


def prepared(wanted: Reference, data_dir: str | None, download: bool) -> Any:
    """TensorFlow Datasets' `ReadOnlyBuilder` of the prepared dataset.

    Args:
        wanted: the dataset.
        data_dir: that holds prepared datasets; None takes TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        download: prepare what is not there.

    Raises:
        ConfigurationError: a name that is none, or a community's; the package or the data are not
            there; they cannot be read, or have features of others.
    """
    _check_names(wanted)
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_FOLDER).expanduser()
    tfds = package()
    if data_dir is not None and not root.is_dir() and not download:
        raise ConfigurationError(
            f"there is no folder {root}",
            where="dataset.data_dir",
            remedy="give the folder where TensorFlow Datasets has prepared its data, or set "
            "dataset.download=true to prepare them there",
        )
    folder = _folder(wanted, root)
    if folder is None:
        from mpt.data.tfds_download import prepare

        _refuse_unknown(tfds, wanted, root)
        if not download:
            raise _not_prepared(wanted, root)
        prepare(tfds, str(wanted), root)
        folder = _folder(wanted, root)
        if folder is None:
            raise _not_prepared(wanted, root)
    _check_features(folder)
    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # whatever its readers of broken files raise
        raise ConfigurationError(
            f"TensorFlow Datasets cannot read what it prepared: {said(error)}",
            where=str(folder),
            remedy="prepare the dataset again",
        ) from error


def _check_names(wanted: Reference) -> None:
    """Refuse what names nothing of TensorFlow Datasets' own."""
    if re.match(rf"[\w\-]+:(?!{_WANTED.pattern}$)", wanted.name):
        raise ConfigurationError(
            f"{wanted.name} is a community's dataset: its code would be downloaded and run",
            where="dataset.name",
            allowed=["TensorFlow Datasets' own", "what lies prepared in dataset.data_dir"],
            remedy=WITH_ALLOW,
        )
    for key, value, pattern, like in (
        ("name", wanted.name, _NAME, "mnist"),
        ("config", wanted.config, _CONFIG, "matched-frequency"),
        ("version", wanted.version, _WANTED, "3.0.1, 3.*.*"),
    ):
        if value is not None and not pattern.fullmatch(value):
            raise ConfigurationError(
                f"{value!r} is no {key} of a dataset",
                where=f"dataset.{key}",
                allowed=[f"such as {like}"],
                remedy="give NAME/CONFIG:1.0.0 as dataset.name, dataset.config and dataset.version",
            )


def _folder(wanted: Reference, root: Path) -> Path | None:
    """The folder of the newest version that is there.

    Raises:
        ConfigurationError: there are several configurations, and none is named.
    """
    folder = root / wanted.name
    found = _newest(folder / wanted.config if wanted.config else folder, wanted.version)
    if found is not None or wanted.config or not folder.is_dir():
        return found
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    configs = [entry for entry in inner if _newest(entry, wanted.version)]
    if len(configs) > 1:
        raise ConfigurationError(
            f"{wanted} has several configurations in {root}",
            where="dataset.config",
            allowed=[entry.name for entry in configs],
        )
    return _newest(configs[0], wanted.version) if configs else None


def _newest(folder: Path, version: str | None) -> Path | None:
    """Of the versions in `folder` that fit `version`, in which * stands for any number."""
    if not folder.is_dir():
        return None
    names = [entry.name for entry in folder.iterdir() if (entry / INFO).is_file()]
    fitting = [
        name for name in names if _VERSION.fullmatch(name) and fnmatchcase(name, version or "*")
    ]
    fitting.sort(key=lambda name: [int(number) for number in name.split(".")])
    return folder / fitting[-1] if fitting else None


def _refuse_unknown(tfds: Any, wanted: Reference, root: Path) -> None:
    known = tfds.list_builders(with_community_datasets=False)
    if wanted.name in known:
        return
    there = (
        sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.exists() else []
    )
    close = nearest(wanted.name, [*known, *there])
    remedy = f"did you mean {close!r}? " if close else ""
    raise ConfigurationError(
        f"TensorFlow Datasets has no dataset {wanted.name!r}, and none lies prepared in {root}",
        where="dataset.name",
        allowed=there[:NAMED],
        remedy=f"{remedy}All names: https://www.tensorflow.org/datasets/catalog/overview",
    )


def _not_prepared(wanted: Reference, root: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{wanted} is not prepared in {root}",
        where="dataset.data_dir",
        remedy="set dataset.download=true to let TensorFlow Datasets download and prepare it "
        "there, or give the folder that has it",
    )


def _check_features(folder: Path) -> None:
    """Refuse features whose classes are not TensorFlow Datasets': to read them imports them."""
    file = folder / FEATURES
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError("it is too large")
        found = [*_classes(json.loads(file.read_text()))]
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{FEATURES} cannot be read: {said(error)}",
            where=str(file),
            remedy="prepare the dataset again",
        ) from error
    for name in found:
        if not str(name).startswith(OWN_FEATURES):
            raise ConfigurationError(
                f"{name} is not a feature of TensorFlow Datasets' own: to read it would run its "
                "code",
                where=str(file),
                allowed=[f"{OWN_FEATURES}*"],
                remedy=WITH_ALLOW,
            )


def _classes(node: Any) -> Iterator[Any]:
    """The classes that a description of features names, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in CLASS_KEYS and not isinstance(value, dict | list):
                yield value
            else:
                yield from _classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _classes(value)


def said(error: BaseException) -> str:
    """The last of the lines in which TensorFlow Datasets says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
