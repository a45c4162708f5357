"""What may stand at the cursor: subcommands, flags, groups, choices, keys, values, paths."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mpt import choices
from mpt.common_flags import COMMON, COMPOSING, SWEEPING
from mpt.completion import keys

SHELLS = ("bash", "zsh", "fish")
OVERRIDDEN = ("train", "inspect", "probe", "bisect", "evaluate", "export", "doctor")
COMPOSED = ("train", "inspect", "probe", "bisect", "doctor data", "doctor --peaks")
OF_PATHS = ("compare", "show", "board", "evaluate", "export", "doctor")
WORDS = {"doctor": {"data": "how fast the data come, without a model"}}
PATH_FLAGS = ("--allow", "--config-dir", "--html", "--out", "--output")
PATH_KEYS = ("dataset.path", "init_from", "resume", "run_dir")


@dataclass(frozen=True)
class Candidate:
    """One word that may stand there.

    Attributes:
        text: the whole word.
        help: what it is, in a few words; may be empty.
        finished: a space may follow it.
    """

    text: str
    help: str = ""
    finished: bool = True


def candidates(line: str, commands: Mapping[str, str]) -> list[Candidate]:
    """Words that may stand at the end of `line`, which begins with the program's name.

    Args:
        line: up to the cursor.
        commands: subcommands and what each does.
    """
    *before, word = _words(line)
    before = before[1:]
    if not before:
        return _matching([Candidate(name, text) for name, text in commands.items()], word)
    name, *given = before
    if name not in commands:
        return []
    return _matching(_after(name, given, word), word)


def _after(name: str, given: list[str], word: str) -> Iterable[Candidate]:
    """What may follow the subcommand `name`."""
    previous = given[-1] if given else ""
    task = _task(name, given)
    values = _values_of_flag(task, previous, word)
    if values is not None:
        return values
    if word.startswith("-"):
        return _flags(task, composing=task in COMPOSED and not _names_run(task, given))
    found: list[Candidate] = []
    if name == "completion":
        return [Candidate(shell) for shell in SHELLS]
    if not given:
        found += [Candidate(text, help) for text, help in WORDS.get(name, {}).items()]
    if name == "doctor" and not given:
        return found
    if name in OVERRIDDEN:
        found += _overrides(given, word)
    if name in OF_PATHS and "=" not in word:
        found += paths(word)
    return found


def _overrides(given: list[str], word: str) -> Iterator[Candidate]:
    """KEY= and GROUP= where none is typed yet, else values of the key that is."""
    folders = choices.config_dirs(given)
    key, equals, value = word.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(sign) :]
    if not equals:
        for candidate in keys.names(name, given, folders):
            yield Candidate(f"{sign}{candidate.text}=", candidate.help, finished=False)
        return
    if name in PATH_KEYS:
        for path in paths(value):
            yield Candidate(f"{key}={path.text}", path.help, path.finished)
        return
    done, comma, _ = value.rpartition(",")  # of a sweep
    taken = set(done.split(",")) if comma else set()
    for text, help in keys.values(name, given, folders).items():
        if text not in taken:
            yield Candidate(f"{key}={done}{comma}{text}", help)


def _names_run(task: str, given: list[str]) -> bool:
    """Whether `mpt doctor data` is given a run, whose configuration it takes."""
    words = [word for flag, word in pairwise(given) if not flag.startswith("-")]
    return task == "doctor data" and any("=" not in w and not w.startswith("-") for w in words)


def _flags(task: str, *, composing: bool) -> Iterator[Candidate]:
    known = dict(COMMON)
    if composing:
        known |= COMPOSING
    if task == "train":
        known |= SWEEPING
    known |= dict.fromkeys(_own(task), "")
    for flag in sorted(known):
        yield Candidate(flag, known[flag])


def _values_of_flag(task: str, flag: str, word: str) -> list[Candidate] | None:
    """What may follow `flag`; None where it takes nothing."""
    if not flag.startswith("-") or "=" in flag:
        return None
    if flag in PATH_FLAGS or flag == "-cd":
        return list(paths(word))
    if flag in ("--cfg", "-c", "--info", "-i"):
        from mpt.composition import VALUES

        return [Candidate(value) for value in VALUES[flag]]
    own = _own(task).get(flag)
    if own is None or own.convert is None:
        return None
    return [Candidate(str(choice)) for choice in own.choices]


def _own(task: str) -> Mapping[str, keys.Taken]:
    """The flags of a subcommand's own, or of one of its tasks."""
    flags: Mapping[str, keys.Taken] = importlib.import_module("mpt.commands.flags").own_flags(task)
    return flags


def _task(name: str, given: list[str]) -> str:
    """What the command line asks for so far: a subcommand, or one of its tasks."""
    if name == "doctor" and given[:1] == ["data"]:
        return "doctor data"
    return "doctor --peaks" if name == "doctor" and "--peaks" in given else name


def paths(word: str) -> Iterator[Candidate]:
    """Files and folders that begin as `word` does, hidden ones only where it asks for them."""
    folder, _, start = word.rpartition("/")
    where = Path(os.path.expanduser(f"{folder}/")) if folder or word.startswith("/") else Path()
    prefix = f"{folder}/" if "/" in word else ""
    try:
        entries = sorted(os.scandir(where), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return
    for entry in entries:
        if entry.name.startswith(".") and not start.startswith("."):
            continue
        if os.path.isdir(entry.path):  # which answers where one may not look, too
            yield Candidate(f"{prefix}{entry.name}/", finished=False)
        else:
            yield Candidate(f"{prefix}{entry.name}")


def _matching(found: Iterable[Candidate], word: str) -> list[Candidate]:
    return [candidate for candidate in found if candidate.text.startswith(word)]


def _words(line: str) -> list[str]:
    """The words of a line as a shell has them, the last one as far as it is typed."""
    words = shlex.shlex(line, posix=True, punctuation_chars="")
    words.whitespace_split = True
    words.commenters = ""
    found: list[str] = []
    try:
        found.extend(words)
    except ValueError:  # a quotation that is not closed yet
        found = line.split()
    return found if line and not line[-1].isspace() else [*found, ""]
