"""Runs and comparisons as a reader sees them: on the console, in Markdown, as one HTML file.

Nothing here judges a run: `mpt.comparison` does.
"""

from mpt.pages.comparison_page import comparison_html
from mpt.pages.console import print_comparison
from mpt.pages.markdown import markdown
from mpt.pages.reading import read_run
from mpt.pages.run_console import print_run
from mpt.pages.run_page import run_html

__all__ = [
    "comparison_html",
    "markdown",
    "print_comparison",
    "print_run",
    "read_run",
    "run_html",
]
