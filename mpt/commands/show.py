"""`mpt show`: the report of one run, on the console, as JSON or as a page."""

import json
import sys
from pathlib import Path

from mpt.commands import Options
from mpt.commands.flags import Flag, take
from mpt.errors import OK, ConfigurationError

FLAGS = {"--json": Flag(), "--html": Flag(None, str)}
USAGE = """\
usage: mpt show RUN [FLAG ...]

Show what came of one run. RUN is its folder, or its report.json.

examples:
  mpt show runs/2026-11-25/10-00-00_cnn_mixed_float16_1a2b
  mpt show sweeps/2026-11-25/10-00-00/3 --html run.html
  mpt show RUN --json | jq .throughput

flags:
  --html FILE              write one page that needs nothing else: curves, the loss scale, every
                           layer's precision
  --json                   print the report as JSON, and nothing else
  -v                       print the precision of every layer, too
"""


def main(argv: list[str], options: Options) -> int:
    """Show the run that `argv` names.

    Returns:
        0, whatever the run's own exit code was.

    Raises:
        ConfigurationError: a flag is wrong, or there is no report that can be read.
    """
    values, paths = take(argv, FLAGS)
    unknown = [word for word in paths if word.startswith("-")]
    if unknown:
        raise ConfigurationError(
            f"mpt show has no flag {unknown[0]}",
            where="command line",
            allowed=FLAGS,
            value=unknown[0].partition("=")[0],
        )
    if len(paths) != 1:
        raise ConfigurationError(
            f"mpt show takes one run; {len(paths)} were given" if paths else "mpt show needs a run",
            where="command line",
            remedy="name a run's folder; `mpt compare` takes several",
        )
    from mpt import pages

    run = pages.read_run(paths[0])
    if values["html"] is not None:
        _write(Path(values["html"]), pages.run_html(run))
    if values["json"]:
        print(json.dumps(run.report.to_json(), indent=2, allow_nan=False))
    else:
        pages.print_run(run, verbosity=options.verbosity)
    return OK


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(
            f"The page cannot be written: {error.strerror}.", where=f"--html {path}"
        ) from error
    print(f"page: {path}", file=sys.stderr)


def help_text(argv: list[str]) -> str:
    """The help of `mpt show`."""
    return USAGE
