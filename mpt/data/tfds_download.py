"""Datasets that TensorFlow Datasets downloads and prepares itself."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from mpt.errors import ConfigurationError

REACHING_SECONDS = 10.0
"""For a first answer of where the data are: TensorFlow Datasets itself waits without limit."""

LONGEST = 300
"""Characters of its own words; some of its instructions fill a page."""


def prepare(tfds: Any, name: str, root: Path) -> None:
    """Download the dataset `name` and write it as TFRecords below `root`.

    Its progress is told on stderr.

    Args:
        tfds: the package.
        name: one of the package's own.
        root: is made where it is not there.

    Raises:
        ConfigurationError: there is no network, or it failed.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(root))
            _reach(name, builder)
            if not sys.stderr.isatty():
                tfds.disable_progress_bar()
            builder.download_and_prepare(file_format="tfrecord")
    except ConfigurationError:
        raise
    except Exception as error:  # of any kind: each dataset has code of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"TensorFlow Datasets could not prepare {name}: {said[:LONGEST]}",
            where="dataset.name",
            remedy=f"prepare it where that works (tfds build {name}), and give its folder as "
            "dataset.data_dir",
        ) from error


def _reach(name: str, builder: Any) -> None:
    """Refuse where the first of the dataset's addresses does not answer."""
    import requests  # which TensorFlow Datasets needs

    known = builder.url_infos or ()  # None where the dataset lists none
    address = next((url for url in known if url.startswith("http")), None)
    if address is None:
        return
    try:
        requests.head(address, timeout=REACHING_SECONDS).close()
    except requests.RequestException as error:
        raise ConfigurationError(
            f"{name} cannot be downloaded: {address} does not answer ({type(error).__name__})",
            where="dataset.download",
            remedy="prepare it on a machine with a network (tfds build), copy the folder, and "
            "give it as dataset.data_dir",
        ) from error
