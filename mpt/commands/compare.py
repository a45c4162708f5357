"""`mpt compare`: runs and sweeps held against one another, and the verdict."""

import json
import sys

from mpt import comparison, errors
from mpt.commands import Options
from mpt.commands.flags import Flag, take_paths
from mpt.commands.page import write_page
from mpt.comparison import MARGIN, Comparison
from mpt.errors import ConfigurationError
from mpt.printable import one_line, path_text

WARNED = 20
"""Of what cannot be read, so many are named on stderr."""
FLAGS = {
    "--baseline": Flag(None, str),
    "--margin": Flag(MARGIN, float, least=0),
    "--metric": Flag(None, str),
    "--target": Flag(None, float),
    "--require": Flag(None, str),
    "--json": Flag(),
    "--markdown": Flag(),
    "--html": Flag(None, str),
}
USAGE = f"""\
usage: mpt compare PATH ... [FLAG ...]

Hold runs against one another: is reduced precision worth it, and does it train as well? PATH is a
run's folder, a sweep's, any folder above them, or a pattern. Runs that differ in nothing but the
seed are one group, and each group is held against its baseline.

examples:
  mpt compare sweeps/2026-11-25/10-00-00
  mpt compare 'runs/2026-11-25/*_cnn_*' --baseline precision=float32
  mpt compare sweeps/A sweeps/B --metric validation/loss --margin 1
  mpt compare sweeps/A --html report.html --markdown > report.md
  mpt compare sweeps/A --require 'speedup>=1.2,parity,memory<=0.6'

flags:
  --baseline KEY=VALUE[,...]  what the others are held against (the widest precision)
  --metric TAG                metric to compare (the one that the runs monitored)
  --margin POINTS             largest difference that counts as none: hundredths of a share such
                              as accuracy, percent of any other metric ({MARGIN:g})
  --target VALUE              time is told until the metric reached this (the baseline's median
                              best, less the margin)
  --require WHAT[,...]        exit with 5 unless all hold: speedup>=N, memory<=N, host_memory<=N
                              (ratios to the baseline), parity, skipped<=N, failures<=N; of one
                              group: mixed_bfloat16:speedup>=N
  --json, --markdown          print that, and nothing else
  --html FILE                 write one page that needs nothing else, to read offline
"""


def main(argv: list[str], options: Options) -> int:
    """Compare the runs that `argv` names.

    Returns:
        0, or 5 where what --require asks for does not hold.

    Raises:
        ConfigurationError: a flag is wrong, or there is no run that can be read.
    """
    values, paths = take_paths("compare", argv, FLAGS)
    page, as_json, as_markdown = (values.pop(name) for name in ("html", "json", "markdown"))
    if not paths:
        raise ConfigurationError(
            "mpt compare needs a folder of runs",
            where="command line",
            remedy="name a run's folder, a sweep's, or one above them, such as sweeps/",
        )
    if as_json and as_markdown:
        raise ConfigurationError(
            "--json and --markdown both want stdout", where="command line", remedy="give one"
        )
    result = comparison.compare(paths, **values)
    if options.verbosity >= 0 and (as_json or as_markdown):  # the console's table has them
        _warn(result)
    if page is not None:
        from mpt.pages import comparison_html

        write_page(page, comparison_html(result))
    if as_json:
        print(json.dumps(result.to_json(), indent=2, allow_nan=False))
    else:
        _show(result, markdown=as_markdown)
    return _required(result, tell=as_json or as_markdown)


def _warn(result: Comparison) -> None:
    """Say on stderr what cannot be read; what others wrote must not look like a line of ours."""
    for each in result.unreadable[:WARNED]:
        print(f"warning: {path_text(each.path)}: {one_line(each.reason)}", file=sys.stderr)
    more = len(result.unreadable) - WARNED
    if more > 0:
        print(f"warning: {more} more cannot be read", file=sys.stderr)


def _show(result: Comparison, *, markdown: bool) -> None:
    from mpt.pages import markdown as as_markdown
    from mpt.pages import print_comparison

    if markdown:
        print(as_markdown(result))
    else:
        print_comparison(result)


def _required(result: Comparison, *, tell: bool) -> int:
    """The exit code; with `tell` what is not met is said on stderr: the console's table has it."""
    unmet = [each for each in result.requirements if not each.met]
    for each in unmet if tell else ():
        print(one_line(f"not met: {each.text}: {each.detail}"), file=sys.stderr)
    return errors.NOT_MET if unmet else errors.OK


def help_text(argv: list[str]) -> str:
    """The help of `mpt compare`."""
    return USAGE
