"""A small project of one's own, made by `mpt init`: a model, data, configuration, a test.

`template/` holds its files; `$name` in them and in their paths is the project's name, `$module` the
name of its Python package.
"""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import sys
from pathlib import Path
from string import Template

from mpt import choices
from mpt.errors import ConfigurationError

TEMPLATE = Path(__file__).parent / "template"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
YAML_WORDS = {"true", "false", "null", "on", "off", "yes", "no", "nan", "inf"}
PACKAGES = {"mpt", "keras", "tensorflow", "numpy", "hydra", "hydra_plugins", "tests"}
PLACEHOLDERS = {"NAME": "name", "MODULE": "module"}  # as parts of paths


def create(folder: Path) -> list[Path]:
    """Make the project `folder`, whose last part is its name.

    Returns:
        The files that were written, relative to it.

    Raises:
        ConfigurationError: the name cannot be one, or is taken, or something is there already.
    """
    names = _names(name_of(folder))
    written = []
    try:
        if _is_taken(folder):
            raise ConfigurationError(
                "There is something already, which stays as it is.",
                where=str(folder),
                remedy="another name, or an empty folder",
            )
        for source in sorted(path for path in TEMPLATE.rglob("*") if path.is_file()):
            if source.suffix == ".pyc":
                continue
            relative = Path(*(_part(part, names) for part in source.relative_to(TEMPLATE).parts))
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            target.write_text(Template(text).substitute(names), encoding="utf-8")
            written.append(relative)
    except OSError as error:
        raise ConfigurationError(
            f"The project cannot be written: {error.strerror}.", where=str(folder)
        ) from error
    return written


def name_of(folder: Path) -> str:
    """The last part of the folder's path, also where it is given as "." or ".."."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _is_taken(folder: Path) -> bool:
    if folder.is_symlink():
        return True
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _is_installed(module: str) -> bool:
    """Whether Python finds `module` elsewhere than in the current folder.

    A mere folder of that name does not count: a package comes before it, wherever it stands.
    """
    here = Path.cwd()
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != here]
    found = [
        finder.find_spec(module, elsewhere)
        for finder in sys.meta_path
        if hasattr(finder, "find_spec")
    ]
    if any(spec is not None and spec.origin is not None for spec in found):
        return True
    # One that several distributions share, such as google, has no file of its own.
    return module in importlib.metadata.packages_distributions()


def _names(name: str) -> dict[str, str]:
    """The project's name and its package's, if they can be such.

    Raises:
        ConfigurationError: they cannot.
    """
    module = name.replace("-", "_").lower()
    if not NAME.fullmatch(name) or keyword.iskeyword(module):
        raise ConfigurationError(
            f"{name!r} cannot be a project's name.",
            where="command line",
            allowed=["letters, digits, - and _, a letter first, and no word of Python's"],
        )
    taken = {*sys.stdlib_module_names, *PACKAGES}
    if name.lower() in YAML_WORDS:
        raise ConfigurationError(
            f"In YAML, and in Hydra's overrides, {name} is no text.",
            where="command line",
            remedy="another name",
        )
    groups = ("model", "dataset")
    shipped = {choice for group in groups for choice in choices.choices(group)}
    is_package = module in taken or _is_installed(module)
    if is_package or name in shipped | set(choices.recipes()):
        what = "a Python package" if is_package else "a choice that mpt has"
        raise ConfigurationError(
            f"{name} is the name of {what}, which would come first.",
            where="command line",
            remedy="another name",
        )
    return {"name": name, "module": module}


def _part(part: str, names: dict[str, str]) -> str:
    for placeholder, key in PLACEHOLDERS.items():
        part = part.replace(placeholder, names[key])
    return part.removesuffix(".template")
