"""`mpt board`: TensorBoard over runs and sweeps, on this machine's own address."""

from contextlib import suppress

from mpt import errors
from mpt.board import serve
from mpt.commands import Options
from mpt.commands.flags import Flag, take_paths
from mpt.errors import ConfigurationError

FLAGS = {"--port": Flag(None, int, least=0)}
USAGE = """\
usage: mpt board PATH [FLAG ...]

Serve TensorBoard over a run, a sweep, or all runs below a folder, until Ctrl-C. It prints its
address, 127.0.0.1: no other machine can reach it. Runs that are still going on, or begin later,
appear by themselves.

examples:
  mpt board sweeps/2026-01-31/12-00-00      a sweep: the page HParams has one row a run
  mpt board runs                            all runs
  mpt board runs --port 7000

flags:
  --port N                 the port; 0 takes any free one (default: the first free one from 6006)
"""


def main(argv: list[str], options: Options) -> int:
    """Serve the folder that `argv` names.

    Returns:
        0, at Ctrl-C.

    Raises:
        ConfigurationError: there is nothing to show, a flag is unknown, or the port is taken.
    """
    values, paths = take_paths("board", argv, FLAGS)
    if len(paths) != 1:
        raise ConfigurationError(
            f"mpt board takes one folder, not {len(paths)}" if paths else "no folder is named",
            where="command line",
            remedy="name a run, a sweep, or a folder above: mpt board runs",
        )
    with suppress(KeyboardInterrupt):
        serve(paths[0], port=values["port"], ready=_announce)
    return errors.OK


def _announce(address: str) -> None:
    print(f"board: {address}", flush=True)


def help_text(argv: list[str]) -> str:
    """The help of `mpt board`."""
    return USAGE
