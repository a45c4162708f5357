"""Writes a page where the user asked for it."""

import sys
from pathlib import Path

from mpt.errors import ConfigurationError


def write_page(name: str, text: str) -> None:
    """Write `text` to the file `name`, and say so on stderr.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        Path(name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(
            f"The page cannot be written: {error.strerror}.", where=f"--html {name}"
        ) from error
    print(f"page: {name}", file=sys.stderr)
