"""Runs and comparisons as a reader sees them: on the console, in Markdown, as one HTML file.

Nothing here reads a run or judges it: `mpt.comparison` does.
"""

from mpt.pages.comparison_page import comparison_html
from mpt.pages.console import print_comparison
from mpt.pages.markdown import markdown

__all__ = ["comparison_html", "markdown", "print_comparison"]
