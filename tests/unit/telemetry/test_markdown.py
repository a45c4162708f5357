"""Markdown that TensorBoard's own renderer, the reference here, turns back into the same text."""

from html.parser import HTMLParser

import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from mpt.telemetry.markdown import LAYER_COLUMNS, escape, fenced, table

NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "`code` **bold** _it_ ~~x~~",
    "[link](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "http://example.com/ <http://example.com>",
    "&lt;b&gt; &amp; &#35;",
    "\\| \\_ \\\\",
    "# heading",
    "two\nlines",
    "block_1/conv2d (Conv2D): 3x3, +1 = é",
    "- item",
    "```",
    "1. item",
]


class Page(HTMLParser):
    """The tags and the texts of a page; those within td or code apart."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.code, self._open = set(), [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        if "td" in self._open:
            self.cells[-1] += data
        if "code" in self._open:
            self.code += data


def test_what_the_cells_of_a_table_hold_is_shown_as_it_is():
    rows = [{"a": text, "b": "x"} for text in NASTY]
    page = Page(markdown_to_safe_html(table(("a", "b"), rows)))
    assert page.cells[::2] == NASTY
    assert page.cells[1::2] == ["x"] * len(NASTY)
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("text", NASTY)
def test_an_escaped_text_is_one_paragraph_of_it(text):
    html = markdown_to_safe_html("x" + escape(text))
    assert Page(html).tags == {"p"}
    assert Page("<td>" + html.removeprefix("<p>").removesuffix("</p>")).cells == ["x" + text]


def test_fenced_text_is_shown_as_it_is():
    text = "\n".join([*NASTY, "    deep:", "", "~~~", "````", "end: '````'"])
    page = Page(markdown_to_safe_html(fenced(text, "yaml")))
    assert page.code.strip("\n") == text
    assert page.tags <= {"pre", "code"}


def test_an_absent_cell_is_empty_and_a_table_may_have_no_rows():
    assert Page(markdown_to_safe_html(table(("a", "b"), [{"a": 1}]))).cells == ["1", ""]
    assert "th" in Page(markdown_to_safe_html(table(LAYER_COLUMNS, []))).tags
