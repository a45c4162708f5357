"""`mpt show`: the report of one run, on the console, as JSON or as a page."""

import json

from mpt.commands import Options
from mpt.commands.flags import Flag, take_paths
from mpt.commands.page import write_page
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
    values, paths = take_paths("show", argv, FLAGS)
    if len(paths) != 1:
        raise ConfigurationError(
            f"mpt show takes one run; {len(paths)} were given" if paths else "mpt show needs a run",
            where="command line",
            remedy="name a run's folder; `mpt compare` takes several",
        )
    from mpt import pages

    run = pages.read_run(paths[0])
    if values["html"] is not None:
        write_page(values["html"], pages.run_html(run))
    if values["json"]:
        print(json.dumps(run.report.to_json(), indent=2, allow_nan=False))
    else:
        pages.print_run(run, verbosity=options.verbosity)
    return OK


def help_text(argv: list[str]) -> str:
    """The help of `mpt show`."""
    return USAGE
