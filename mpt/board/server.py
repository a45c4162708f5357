"""TensorBoard over the runs below a folder, served by this process, to this machine only.

It is TensorBoard's own program, without TensorFlow. The event files are read by its data server,
a child that ends with this process, or where that is not installed by its reader in Python.
"""

import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mpt.errors import ConfigurationError

HOST = "127.0.0.1"
EVENTS = "tfevents"  # TensorBoard reads the files that have this in their name


def serve(path: str | Path, *, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve TensorBoard until this process is interrupted.

    Args:
        path: a run's folder, a sweep's, or any folder above them.
        port: 0 is any free one; None is the first free one from 6006 on.
        ready: called with the address, once it answers.

    Raises:
        ConfigurationError: there is nothing to show, or the port cannot be used.
        KeyboardInterrupt: the process was interrupted, or terminated.
    """
    folder = Path(path)
    require_events(folder)
    address = _launch(folder, port)
    # SIGTERM as Ctrl-C; and Ctrl-C itself, which a script's background job would ignore.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    ready(address)
    threading.Event().wait()


def require_events(folder: Path) -> None:
    """Raise `ConfigurationError` where there is no event file in `folder` or below it."""
    if not folder.is_dir():
        raise ConfigurationError(
            "This is a file, not a folder." if folder.exists() else "There is no such folder.",
            where=str(folder),
            remedy="name a run's folder, a sweep's, or one above them, such as runs",
        )
    for _, _, names in os.walk(folder):
        if any(EVENTS in name for name in names):
            return
    raise ConfigurationError(
        "There are no TensorBoard event files in this folder, or below it.",
        where=str(folder),
        remedy="name a folder with runs in it; telemetry.tensorboard=false writes no event files",
    )


def _launch(folder: Path, port: int | None) -> str:
    """Start TensorBoard's server in a thread of its own; its address."""
    # TensorBoard imports TensorFlow, which takes seconds, unless this module can be imported.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
    from tensorboard import default, program
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin

    from mpt.board.hparams import AllRunsHParamsPlugin

    _quiet()
    plugins = [
        AllRunsHParamsPlugin if plugin is HParamsPlugin else plugin
        for plugin in default.get_plugins()
    ]
    try:
        for fast in ("true", "false") if _has_data_server() else ("false",):
            board = program.TensorBoard(plugins=plugins)
            board.configure(
                argv=["", "--logdir", str(folder.resolve())],
                host=HOST,
                port=port,
                load_fast=fast,
                window_title=f"mpt board {folder.resolve().name}",
            )
            # Where its data server does not run, TensorBoard says so, and exits.
            with suppress(SystemExit):
                return str(board.launch())
    except program.TensorBoardServerException as error:
        raise ConfigurationError(
            f"{error.msg}.",
            where="--port",
            value=port,
            remedy="name another port, or leave --port out to get a free one",
        ) from error
    raise ConfigurationError("TensorBoard does not start.", where=str(folder))


def _has_data_server() -> bool:
    """TensorBoard's data server is installed, in a build for this machine."""
    from tensorboard.data import server_ingester

    try:
        server_ingester.get_server_binary()
    except server_ingester.NoDataServerError:
        return False
    return True


def _quiet() -> None:
    """No log line for each request."""
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
