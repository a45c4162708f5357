"""The command `mpt`: a table of subcommands, and what all of them take.

It answers --help and --version without importing anything heavy: no TensorFlow, Hydra or rich.
"""

import errno
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from mpt import __version__, errors
from mpt.commands import Options
from mpt.errors import ConfigurationError
from mpt.leaving import leave
from mpt.printable import print_error

COMMANDS = {
    "train": "train a model, or with -m a sweep",
    "inspect": "every layer's precision, size and cost, before any training",
    "probe": "what a policy loses on real batches, and the loss scale it needs",
    "bisect": "the layers that must stay in float32 for a run to succeed",
    "evaluate": "a trained model on its validation data, under another policy",
    "export": "a trained model as a SavedModel, checked against the Keras model",
    "doctor": "what this machine has and lacks; data and device measured alone",
    "compare": "runs and sweeps held against one another, and the verdict",
    "show": "the report of one run, on the console or as a page",
    "board": "TensorBoard over runs and sweeps, on a free port",
    "init": "a new project: a model, data, configuration and a test",
    "completion": "the script by which bash, zsh or fish completes words",
}


def command() -> NoReturn:
    """The program `mpt`: `main`, and the end of the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored, by nohup
        signal.signal(signal.SIGINT, _end)
    leave(main())


def _end(*_: object) -> NoReturn:
    """For Ctrl-C while modules are loaded: some take the exception for a reason not to load."""
    os.write(sys.stderr.fileno(), b"interrupted\n")
    os._exit(errors.INTERRUPTED)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the words after the program's name; None takes those of this process.

    Returns:
        0 done, 1 failed, 2 configuration or input wrong, 3 diverged, 4 out of memory,
        5 a requirement is not met, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if "-sc" in words or "--shell-completion" in words:
            return _complete(words)
        options, words = take_options(words, debug=debug)
        with _exported(options.allow):
            code = _dispatch(words, options)
        sys.stdout.flush()
        return code
    except ConfigurationError as error:
        print_error(error, debug=debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return errors.INTERRUPTED
    except BrokenPipeError:  # `mpt train --cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except Exception as error:  # what is expected to go wrong has an error of its own
        print_error(_of_stdout(error) or error, debug=debug)
        return errors.FAILED


def _of_stdout(error: Exception) -> Exception | None:
    """`error` in words where it came of writing to stdout, which then takes nothing more."""
    if not isinstance(error, OSError) or error.filename is not None:
        return None
    is_stdout = getattr(sys.stdout, "write_through", False) and error.errno == errno.ENOSPC
    try:
        sys.stdout.flush()  # what could not be written is there yet
    except OSError:
        is_stdout = True
    if not is_stdout:
        return None
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ConfigurationError(f"stdout cannot be written: {error.strerror}.", where="stdout")


def take_options(words: list[str], *, debug: bool = False) -> tuple[Options, list[str]]:
    """Take out of `words` what every subcommand has: -q, -v, --debug, --allow.

    Returns:
        The options, with MPT_ALLOW's entries first, and the other words in their order.

    Raises:
        ConfigurationError: --allow without a module.
    """
    allow = [entry for entry in os.environ.get("MPT_ALLOW", "").split(",") if entry.strip()]
    verbosity = 0
    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if word in ("-q", "--quiet"):
            verbosity = -1
        elif word in ("-v", "--verbose"):
            verbosity += 1
        elif word == "-vv":
            verbosity += 2
        elif flag == "--allow":
            value = value if equals else next(remaining, "")
            if not value or value.startswith("-"):
                raise ConfigurationError(
                    "--allow needs a module or a file.py", where="command line"
                )
            allow += value.split(",")
        elif word != "--debug":
            rest.append(word)
    return Options(verbosity, tuple(entry.strip() for entry in allow), debug), rest


def _dispatch(words: list[str], options: Options) -> int:
    name = words[0] if words else ""
    if "--version" in words:
        print(f"mpt {__version__}")
        return errors.OK
    if name in ("-h", "--help", "help"):
        print(_help())
        return errors.OK
    if not name:
        print(_help(), file=sys.stderr)
        return errors.INVALID
    if name not in COMMANDS:
        message = f"unknown command {name!r}"
        if name.startswith("-") or "=" in name:
            message = f"{name!r} is not a command"
        remedy = "`mpt --help` shows what there is"
        if "=" in name and not name.startswith("-"):
            remedy = f"mpt train {shlex.join(words)}"
        raise ConfigurationError(message, allowed=COMMANDS, value=name, remedy=remedy)
    command = _load(name)
    arguments = words[1:]
    if "-h" in arguments or "--help" in arguments:
        print(command.help_text(arguments))
        return errors.OK
    if not (name == "doctor" and "data" not in arguments and "--peaks" not in arguments):
        _check_folder()
    return command.main(arguments, options)


def _check_folder() -> None:
    """Refuse to begin where paths lead nowhere; the doctor tells it among its findings."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigurationError(
            "The current folder was removed."
            if isinstance(error, FileNotFoundError)
            else f"The current folder cannot be found: {error.strerror}.",
            where="current folder",
            remedy="cd to another one",
        ) from error


def _load(name: str) -> Any:
    module = importlib.import_module(f"mpt.commands.{name}")
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return module


def _help() -> str:
    lines = [
        "usage: mpt COMMAND [ARGUMENT ...]",
        "",
        "Train Keras models in mixed precision, and see what the numbers do.",
        "",
        "commands:",
        *(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
        "",
        "examples:",
        "  mpt train",
        "  mpt train precision=mixed_float16",
        "  mpt inspect precision=mixed_float16",
        "  mpt train --help                  groups, choices and flags; so with every command",
        "",
        "flags:",
        "  --version, --help",
        "  -q, -v, --debug, --allow MODULE   with every command",
    ]
    return "\n".join(lines)


def _complete(words: list[str]) -> int:
    """Answer a shell's script, or print it: `-sc query=SHELL`, `-sc install=SHELL`."""
    from mpt import completion

    for word in words:
        action, _, shell = word.partition("=")
        if shell not in completion.SHELLS:
            continue
        if action == "install":
            print(completion.script(shell))
            return errors.OK
        if action == "query":
            found = completion.candidates(os.environ.get("COMP_LINE", ""), COMMANDS)
            print(completion.answer(shell, found))
            return errors.OK
    raise ConfigurationError(
        "-sc needs query=SHELL or install=SHELL",
        where="command line",
        allowed=completion.SHELLS,
        remedy="`mpt completion --help` tells how to set it up",
    )


@contextmanager
def _exported(allow: tuple[str, ...]) -> Iterator[None]:
    """Have MPT_ALLOW say what is admitted, for processes that this one starts."""
    saved = os.environ.get("MPT_ALLOW")
    os.environ["MPT_ALLOW"] = ",".join(allow)
    try:
        yield
    finally:
        if saved is None:
            del os.environ["MPT_ALLOW"]
        else:
            os.environ["MPT_ALLOW"] = saved
