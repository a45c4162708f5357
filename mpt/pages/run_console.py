"""One run on the console: what it was, what came of it, what to look at next."""

from __future__ import annotations

import sys

from mpt.comparison.result import Run
from mpt.console import rich_console
from mpt.pages.console import print_line, print_table
from mpt.pages.run_page import precision_table
from mpt.printable import one_line, path_text
from mpt.report import render

WIDTH = 13
"""Of the labels."""


def print_run(run: Run, *, verbosity: int = 0) -> None:
    """Print the run on stdout as its training did at the end, each diagnosis whole.

    Args:
        verbosity: -1 leaves out all but how it ended; 1 adds every layer's precision.
    """
    console = rich_console(sys.stdout)
    report = run.report
    closing = render.closing_rows(report, whole=True)
    if verbosity < 0:
        closing = closing[:1]
    else:
        closing = [*render.header(report), *closing]
        closing += [("warning", text) for text in report.warnings]
        closing += render.next_paths(report, run.path)
    for label, text in closing:
        # Further lines stand below the first: at the margin they would look like rows of ours.
        indented = "\n".join(f"{'':<{WIDTH}}{line}".rstrip() for line in text.splitlines())
        print_line(console, f"{one_line(label):<{WIDTH}}{indented[WIDTH:]}")
    if verbosity > 0:
        print_line(console, "")
        print_table(console, precision_table(report))
    print_line(console, f"run: {path_text(run.path)}")
