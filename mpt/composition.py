"""Hydra, driven from inside: what it is told, and what it may leave behind.

`hydra.main` stays the way in, so that -m, --info, --cfg and --config-dir mean what they mean in
every Hydra program. Around it: recipes and the schema in its store, its errors in our words, and
no folder left by a run that never began.
"""

import functools
import logging
import os
import re
import secrets
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpt import config as configuration
from mpt import leaving
from mpt.choices import config_dirs
from mpt.common_flags import COMMON
from mpt.errors import ConfigurationError, LauncherError
from mpt.guard import guarded
from mpt.hydra_errors import explain, unknown_flag
from mpt.printable import hydra_quoted
from mpt.schema import TrainConfig

VERSION_BASE = "1.3"
LONGEST_SLUG = 50  # of letters that may take four bytes each, in a file's name of at most 255

# Hydra's flags, and whether each takes a value. --experimental-rerun is left out: it unpickles.
FLAGS = {
    "--cfg": True,
    "-c": True,
    "--package": True,
    "-p": True,
    "--info": None,  # may take one
    "-i": None,
    "--config-path": True,
    "-cp": True,
    "--config-name": True,
    "-cn": True,
    "--config-dir": True,
    "-cd": True,
    "--resolve": False,
    "--run": False,
    "-r": False,
    "--multirun": False,
    "-m": False,
    "--shell-completion": False,
    "-sc": False,
    "--hydra-help": False,
}
VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
ANSWERS = {*VALUES, "-c", "-i"}
VALUES |= {"-c": VALUES["--cfg"], "-i": VALUES["--info"]}


class FolderNote:
    """A Hydra callback that notes which folders of a run are not there before Hydra makes them."""

    made: tuple[Path, ...] = ()

    def on_run_start(self, config: Any, **_: Any) -> None:
        self._note(lambda: config.hydra.run.dir)

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self._note(lambda: config.hydra.sweep.dir)

    def _note(self, read: Callable[[], str]) -> None:
        try:
            path = Path(os.path.abspath(read()))
        except Exception:  # Hydra meets the same fault right after, and its error is explained
            return
        FolderNote.made = tuple(part for part in (path, *path.parents) if not os.path.exists(part))

    def _nothing(self, **_: Any) -> None:
        """Hydra calls every hook of every callback."""

    on_run_end = on_multirun_end = on_job_start = on_job_end = _nothing


def prune() -> None:
    """Remove the folders that Hydra made for this run or sweep and that hold no result."""
    if FolderNote.made:
        left = {path.name for path in FolderNote.made[0].glob("*")}
        if left == {"multirun.yaml"}:
            (FolderNote.made[0] / "multirun.yaml").unlink()
    while FolderNote.made:
        try:
            FolderNote.made[0].rmdir()
        except OSError:  # something is in it, yet
            break
        FolderNote.made = FolderNote.made[1:]


leaving.hooks.append(prune)


def _slug(name: Any) -> str:
    """A name as one part of a path; of a long one the beginning."""
    return re.sub(r"[^\w.=+-]+", "-", str(name)).strip("-.")[:LONGEST_SLUG] or "run"


def _free(path: str) -> str:
    """`path`, or where it is taken, as by a sweep of the same second, `path_2` and so on."""
    count, candidate = 1, path
    while os.path.lexists(candidate):
        count += 1
        candidate = f"{path}_{count}"
    return candidate


def _library(file: str) -> str:
    """The path of a file in Python's own library."""
    return str(Path(sysconfig.get_path("stdlib")) / file)


@functools.cache
def register() -> None:
    """Put the schema, the recipes and the resolvers where OmegaConf and Hydra look for them."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    for file in sorted(configuration.recipes_dir().glob("*.yaml")):
        node = OmegaConf.merge(OmegaConf.load(file), {"recipe": file.stem})
        store.store(group="recipe", name=file.stem, node=node, package="_global_")
    OmegaConf.register_new_resolver("mpt.slug", _slug, replace=True)
    OmegaConf.register_new_resolver("mpt.library", _library, replace=True)
    OmegaConf.register_new_resolver("mpt.free", _free, replace=True, use_cache=True)
    # Cached, so that the folder of one configuration is the same wherever it is read.
    OmegaConf.register_new_resolver(
        "mpt.suffix", lambda: secrets.token_hex(2), replace=True, use_cache=True
    )


def arrange(argv: list[str], known: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Split a command line into Hydra's flags and the overrides, with the run's length settled.

    Hydra's own parser refuses overrides on both sides of a flag, and answers a wrong flag with a
    page of usage.

    Args:
        known: flags that an error names, the subcommand's own too. None given: those of training.

    Raises:
        ConfigurationError: an unknown flag, a flag without its value, or a value that is none, or a
            folder that cannot be read.
    """
    flags: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flag, has_value, value = word.partition("=")
        if flag not in FLAGS:
            hydras = (flag for flag in FLAGS if flag.startswith("--"))
            long = sorted(known) or sorted([*hydras, *COMMON])
            raise unknown_flag(word, next(words, ""), long)
        if FLAGS[flag] is None and not has_value:
            following = argv[argv.index(word) + 1 :][:1]
            # Else Hydra would take the first override for it.
            value = next(words) if following and following[0] in VALUES[flag] else VALUES[flag][0]
        elif FLAGS[flag] and not has_value:
            value = next(words, "")
        if FLAGS[flag] and (not value or value.startswith("-")):
            raise ConfigurationError(f"{flag} needs a value", where="command line")
        if value and flag in VALUES and value not in VALUES[flag]:
            raise ConfigurationError(
                f"{flag} {value} is not a choice",
                where="command line",
                allowed=VALUES[flag],
                value=value,
            )
        flags += [flag, value] if value else [flag]
    if {"--package", "-p"} & set(flags) and not {"--cfg", "-c"} & set(flags):
        raise ConfigurationError(
            "--package names the part of the configuration that --cfg shows, and changes no run",
            where="command line",
            remedy="add --cfg job, or leave it out",
        )
    _check_readable(config_dirs(flags))
    return flags, settle_length(overrides)


def settle_length(overrides: list[str]) -> list[str]:
    """Let `trainer.steps=100` alone replace a preset's epochs, and the other way round."""
    given = {}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in ("trainer.epochs", "trainer.steps"):
            given[key] = value.strip().lower()
    if len(given) == 1:
        (key, value), other = *given.items(), "trainer.epochs"
        if key == other:
            other = "trainer.steps"
        if value != "null":
            return [*overrides, f"{other}=null"]
    return overrides


def run_dir_in(folder: str) -> str:
    """An override that puts the run's folder, named as ever, below `folder` instead of runs/."""
    text = (configuration.configs_dir() / "train.yaml").read_text()
    (pattern,) = re.findall(r"^run_dir: runs/(\S+)$", text, flags=re.MULTILINE)
    return f"run_dir='{folder}/{pattern}'"


def assign(key: str, text: object) -> str:
    """An override that sets `key` to `text`, whatever characters that has."""
    return f"{key}={hydra_quoted(text)}"


@contextmanager
def _as_program(argv: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and reports its errors itself unless HYDRA_FULL_ERROR is set."""
    saved_argv, saved_full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = saved_argv
        if saved_full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = saved_full


@contextmanager
def _mode_settled(flags: list[str], overrides: list[str]) -> Iterator[None]:
    """Spare Hydra composing everything once more, only to read hydra.mode, where that is plain.

    A recipe, a configuration of the user's own or an override may set the mode; without them -m
    alone says it, and what Hydra finds is None.
    """
    from hydra._internal.hydra import Hydra

    own = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"} & set(flags)
    if own or any(override.lstrip("+").startswith(("recipe=", "hydra")) for override in overrides):
        yield
        return
    read = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        Hydra.get_mode = read


def _check_readable(folders: Iterable[Path]) -> None:
    """Refuse a folder that is there and cannot be read: Hydra would find no choice in it."""
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    os.stat(entry.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # as Hydra says itself
        except OSError as error:
            raise ConfigurationError(
                f"This folder cannot be read: {error.strerror}.",
                where=f"--config-dir ({folder})",
                remedy="ask its owner, or give another folder",
            ) from error


def _of_answer(error: Exception, flags: list[str]) -> bool:
    """Whether stdout did not take what Hydra answered: it makes no folder for an answer."""
    return bool(ANSWERS & set(flags)) and isinstance(error, OSError) and error.filename is None


@contextmanager
def _logging_fails(flags: list[str]) -> Iterator[None]:
    """Have a line that cannot be logged end an answer: --info gives it by logging."""
    if not ANSWERS & set(flags):
        yield
        return
    told = logging.Handler.handleError

    def fail(self: logging.Handler, record: logging.LogRecord) -> None:
        raise  # noqa: PLE0704 (it is called where the error is caught)

    logging.Handler.handleError = fail  # type: ignore[method-assign]
    try:
        yield
    finally:
        logging.Handler.handleError = told  # type: ignore[method-assign]


def drive(
    flags: list[str],
    overrides: list[str],
    job: Callable[[Any], Any],
    *,
    allow: tuple[str, ...] = (),
) -> int:
    """Run `hydra.main` over `job` with this command line.

    Args:
        flags, overrides: as `arrange` gives them.
        allow: what the user admits, see `mpt.guard.guarded`.
        job: called with each composed configuration; it keeps its own exceptions. What it returns
            is for Hydra's sweepers. A launcher may call a copy of it in another process.

    Returns:
        The exit code of Hydra's own answers (0 for --cfg and --info); 0 after jobs.

    Raises:
        ConfigurationError: whatever Hydra or OmegaConf had to say against the command line.
        LauncherError: the launcher gave up.
        Exception: what `job` raised.
    """
    import hydra

    raised: list[Exception] = []

    def noted(config: Any) -> Any:
        try:
            return job(config)
        except Exception as error:
            raised.append(error)
            raise

    register()
    FolderNote.made = ()
    entry = hydra.main(
        version_base=VERSION_BASE,
        config_path=str(configuration.configs_dir()),
        config_name="train",
    )(noted)
    try:
        with (
            guarded(allow),
            _as_program(["mpt train", *flags, *overrides]),
            _mode_settled(flags, overrides),
            _logging_fails(flags),
        ):
            entry()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        prune()
        if error in raised or isinstance(error, LauncherError) or _of_answer(error, flags):
            raise
        raise explain(error, flags, overrides) from error
    except KeyboardInterrupt:
        prune()
        raise
    return 0
