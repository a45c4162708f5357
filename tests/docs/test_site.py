"""The pages as a site, and what of them is generated."""

import logging
import re
import runpy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpt.config import configs_dir

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "docs/tools"
FETCHES = re.compile(r"""<(?:script|img|source|iframe)[^>]*\ssrc="(?:https?:)?//""")
STYLES = re.compile(r"""<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(?:https?:)?//""")


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(TOOLS / "configuration.py"))


def test_the_page_of_keys_is_what_its_generator_writes(generator: dict[str, Any]) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == generator["page"](), "run: python docs/tools/configuration.py"


def test_every_key_has_a_meaning(generator: dict[str, Any]) -> None:
    rows = [
        line.split(" | ") for line in generator["page"]().splitlines() if line.startswith("| `")
    ]
    keys = [row for row in rows if "=" not in row[0]]
    assert len(keys) > 120
    assert not [row[0] for row in keys if not row[-1].strip(" |")]


def test_every_file_of_a_group_is_on_the_page(generator: dict[str, Any]) -> None:
    page = generator["page"]()
    choices = [f"`{file.parent.name}={file.stem}`" for file in configs_dir().glob("*/*.yaml")]
    assert len(choices) > 40
    assert not [choice for choice in choices if choice not in page]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A copy of what the site is made of."""
    pytest.importorskip("material")
    for name in ("docs", "bench", "mpt", "configs", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    yield tmp_path
    logger = logging.getLogger("mkdocs")
    logger.handlers.clear()


def build(source: Path) -> Path:
    """Build the site as `mkdocs build --strict`; its folder."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    config = load_config(str(source / "mkdocs.yml"), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    mkdocs_build(config)
    return source / "build/site"


@pytest.mark.slow
def test_it_builds_and_fetches_nothing(source: Path) -> None:
    site = build(source)
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((source / "docs").rglob("*.md")))
    for page in pages:
        html = page.read_text()
        assert not FETCHES.search(html), page
        assert not STYLES.search(html), page
    assert "repository/mpt/comparison/result.py" in (site / "compare.html").read_text()
    assert (site / "repository/mpt/comparison/result.py").is_file()
    assert not list(site.glob("tools*"))


@pytest.mark.parametrize(
    "broken", ["[a](nothing.md)", "[a](compare.md#nothing)", "[a](../nothing.py)", "![a](none.png)"]
)
def test_a_broken_link_fails(source: Path, broken: str) -> None:
    from mkdocs.exceptions import Abort

    with (source / "docs/show.md").open("a") as page:
        page.write(f"\n{broken}\n")
    with pytest.raises(Abort, match="strict"):
        build(source)


def test_a_page_that_no_list_names_fails(source: Path) -> None:
    from mkdocs.exceptions import Abort

    (source / "docs/forgotten.md").write_text("# Forgotten\n")
    with pytest.raises(Abort, match="strict"):
        build(source)


def test_readme_lists_every_page() -> None:
    """The nav of mkdocs.yml has all pages, by strict; README's list is written by hand."""
    readme = (ROOT / "README.md").read_text()
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(re.findall(r"\]\((docs/[^)#]+)", readme))


def test_no_page_names_this_machine() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        places = (str(ROOT), str(Path.home()), tempfile.gettempdir() + "/pytest")
        assert not [place for place in places if f"{place}/" in text], page
