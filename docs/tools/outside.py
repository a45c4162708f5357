"""A hook of mkdocs: files outside of docs/ in the site, by the links that work on GitHub, too.

README.md is the site's first page, and CONTRIBUTING.md and CHANGELOG.md are pages. Whatever else of
the repository a page links to is copied into the site as it stands. A link to what is not there
is left alone, for mkdocs to complain.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
COPIES = "repository"
# [text](target "title"), and the src and href of HTML.
LINK = re.compile(r"""(?P<head>\]\(|\b(?:src|href|srcset)=")(?P<target>[^)"#\s]+)""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the repository's root."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/, or come from outside of it, into links within the site."""
    here = page.file.src_uri
    source = next((name for name, uri in PAGES.items() if uri == here), f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        target = match["target"]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if ":" in target or target.startswith("/") or not (ROOT / path).is_file():
            return match[0]
        return match["head"] + posixpath.relpath(
            _in_site(path, config, files), posixpath.dirname(here)
        )

    return LINK.sub(moved, markdown)


def _in_site(path: str, config: MkDocsConfig, files: Files) -> str:
    """Where `path` of the repository lies in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    copy = f"{COPIES}/{path}"
    if copy not in files.src_uris:
        files.append(File.generated(config, copy, abs_src_path=str(ROOT / path)))
    return copy
