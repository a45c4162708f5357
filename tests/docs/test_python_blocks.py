"""The blocks of Python in the pages run as they stand, and print what the pages say."""

import contextlib
import io
import re
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import documented
import pages_study
import pytest

PYTHON = re.compile(r"^( *)```python\n(.*?)^ *```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
# On two devices, which this process has not.
ELSEWHERE = {"docs/library.md": "tests/unit/loss_scale/test_loss_scale_library.py"}
CONTRIBUTING = documented.ROOT / "CONTRIBUTING.md"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The page's blocks, each with what it prints ("" where the page does not say)."""
    return [
        (re.sub(rf"^{indent}", "", code, flags=re.M), printed)
        for indent, code, printed in PYTHON.findall(page.read_text())
    ]


def pages() -> dict[str, list[tuple[str, str]]]:
    found = {str(page.relative_to(documented.ROOT)): blocks(page) for page in documented.PAGES}
    return {name: content for name, content in found.items() if content}


def test_what_runs_elsewhere_is_still_there() -> None:
    assert set(ELSEWHERE) <= set(pages())
    assert all((documented.ROOT / name).is_file() for name in ELSEWHERE.values())
    assert len(set(pages()) - set(ELSEWHERE)) >= 4
    assert sum(bool(printed) for _, printed in pages()["docs/precision.md"]) == 2


@pytest.mark.parametrize("page", [name for name in pages() if name not in ELSEWHERE])
def test_a_pages_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = pages_study.report("float32", 0, tmp_path / "RUN")
    pages_study.write(tmp_path / "RUN", run, pages_study.metrics(run))
    names: dict[str, Any] = {"__name__": "page"}
    for code, printed in pages()[page]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, page, "exec"), names)
        assert printed in ("", said.getvalue())
    if page == "docs/reading-a-run.md":
        assert float(said.getvalue()) == run["throughput"]["examples_per_second"]
        assert len(names["losses"]) == 40


def test_a_model_in_three_files(
    mpt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRIBUTING.md's module and configuration, in the places that it names."""
    ((code, _),) = blocks(CONTRIBUTING)
    module = types.ModuleType("mpt.models.linear")
    exec(compile(code, "linear.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (configuration,) = re.findall(r"```yaml\n(.*?)```", CONTRIBUTING.read_text(), re.S)
    folder = tmp_path / "configs/model"
    folder.mkdir(parents=True)
    (folder / "linear.yaml").write_text(textwrap.dedent(configuration))
    done = mpt("inspect", "--config-dir", "configs", "model=linear", "precision=float32")
    assert done.code == 0, done.err
    assert "model       linear" in done.out
    assert "parameters  650" in done.out  # 64 pixels, 10 classes
