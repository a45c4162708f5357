"""Groups of the configuration, their choices, and recipes, read from the files by name.

No Hydra, which takes a fifth of a second to say the same: help and completion must answer at once.
"""

from collections.abc import Sequence
from pathlib import Path

from mpt.config import configs_dir, recipes_dir
from mpt.report import open_regular

LONGEST_HEADLINE = 2**12  # bytes


def config_dirs(words: Sequence[str]) -> list[Path]:
    """Folders that --config-dir on a command line adds."""
    found = []
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            found.append(Path(value if equals else "".join(words[index + 1 : index + 2])))
    return found


def choices(group: str, folders: Sequence[Path] = ()) -> dict[str, Path]:
    """The choices of a group and the file of each, sorted by name.

    Args:
        group: such as "model".
        folders: of the user's own; ours come first, as Hydra has it.
    """
    files: dict[str, Path] = {}
    for folder in (configs_dir(), *folders):
        try:
            found = list((folder / group).glob("*.yaml"))
        except (OSError, ValueError):  # the run itself will say what is wrong
            continue
        for file in found:
            files.setdefault(file.stem, file)
    return dict(sorted(files.items()))


def recipes(folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Recipes and the file of each, ours first."""
    ours = {file.stem: file for file in sorted(recipes_dir().glob("*.yaml"))}
    return {**ours, **{k: v for k, v in choices("recipe", folders).items() if k not in ours}}


def headline(file: Path) -> str:
    """The first line of a file's head comment, below Hydra's `# @package`; empty where none is."""
    try:
        with open_regular(file) as content:
            lines = [content.readline(LONGEST_HEADLINE) for _ in range(2)]
    except OSError:
        return ""
    first, second = (line.decode("utf-8", errors="replace") for line in lines)
    said = second if first.startswith("# @package") else first
    return said.lstrip("# ").strip() if said.startswith("#") else ""
