"""`mpt init`: a small project with a model, data, configuration and a test of one's own."""

from pathlib import Path

from mpt import errors
from mpt.commands import Options
from mpt.errors import ConfigurationError
from mpt.new_project import create, name_of
from mpt.printable import path_text

USAGE = """\
usage: mpt init NAME

Make the folder NAME with a model, a dataset, their configuration, and a test: a project that
trains at once, to change into your own.

examples:
  mpt init spirals
  cd spirals && mpt train --config-dir configs --allow spirals recipe=spirals
"""


def main(argv: list[str], options: Options) -> int:
    """Make the project that `argv` names, and tell how to train it.

    Returns:
        0.

    Raises:
        ConfigurationError: no name, or one that cannot be; or there is something already.
    """
    if len(argv) != 1 or argv[0].startswith("-"):
        raise ConfigurationError(
            "mpt init takes the name of one new folder",
            where="command line",
            remedy="mpt init spirals",
        )
    folder = Path(argv[0])
    written = create(folder)
    for file in written:
        print(f"  {path_text(folder / file)}")
    name = name_of(folder)
    module = written_module(written)
    print(
        f"\ntrain it:\n{'' if folder == Path() else f'  cd {path_text(folder)}{chr(10)}'}"
        f"  mpt train --config-dir configs --allow {module} recipe={name}\n"
        f"test it:\n  python -m unittest"
    )
    return errors.OK


def written_module(written: list[Path]) -> str:
    """The name of the project's Python package, by its files."""
    (model,) = (file for file in written if file.name == "model.py")
    return model.parent.name


def help_text(argv: list[str]) -> str:
    """The help of `mpt init`."""
    return USAGE
