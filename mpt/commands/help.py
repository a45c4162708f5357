"""Help read from the configuration files by name, without Hydra: it must answer at once."""

from mpt import choices
from mpt.config import default_choices

USAGE = """\
usage: mpt train [OVERRIDE ...] [FLAG ...]

Train a Keras model under a precision policy, and leave the evidence in a run folder.

examples:
  mpt train                                   the default: cnn on digits, precision=auto
  mpt train precision=mixed_float16           another choice of a group
  mpt train trainer.steps=500 seed=1          other values
  mpt train -m precision=float32,mixed_bfloat16 seed=0,1,2
                                              a sweep, each job in its own process
  mpt train trainer=smoke                     check the installation, in 20 seconds
  mpt train --allow my.py model=python model.function=my.py:build
                                              a model of your own
"""

FLAGS = """\
flags:
  -m, --multirun           run every combination of comma-separated values
  --cfg job                show the composed configuration, and stop
  --info [defaults|...]    show how it was composed, and stop
  --config-dir DIR         add a folder of your own configuration files
  --allow MODULE           admit code of a module, or of a file.py, that the configuration names
                           (repeatable; MPT_ALLOW takes several, with commas between)
  -q, --quiet              only results
  -v, --verbose            more
  --debug                  show tracebacks
  -h, --help               show this
"""


def train_help(argv: list[str]) -> str:
    """Usage, flags, every group with its choices (the default has a star), and recipes."""
    return with_groups(f"{USAGE}\n{FLAGS}", argv)


def with_groups(usage: str, argv: list[str]) -> str:
    """`usage`, then what `groups` tells."""
    return f"{usage}\n{groups(argv)}"


def groups(argv: list[str]) -> str:
    """Every group with its choices (the default has a star), and recipes.

    Args:
        argv: the command line, which may add folders by --config-dir.
    """
    folders = choices.config_dirs(argv)
    lines = ["groups (GROUP=CHOICE; * is the default):"]
    for group, default in default_choices().items():
        names = choices.choices(group, folders)
        marked = [f"{name}*" if name == default else name for name in names]
        lines.append(f"  {group:<11}{' '.join(marked)}")
    lines += ["", "recipes (recipe=NAME):"]
    recipes = choices.recipes(folders)
    width = max(map(len, recipes), default=0) + 2
    lines += [f"  {name:<{width}}{choices.headline(file)}" for name, file in recipes.items()]
    lines += ["", "every key:  mpt train --cfg job"]
    return "\n".join(lines)
