"""The tools that draw and take the pictures of the documentation still do."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image as mpl_image
import pages_study
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "docs/tools"

pytestmark = pytest.mark.slow


def tool(name: str, function: str, images: Path) -> dict[str, Any]:
    """The names in a tool, of which `function` is one; its pictures go to another folder."""
    names = runpy.run_path(str(TOOLS / name))
    names[function].__globals__["IMAGES"] = images
    return names


def test_the_question_is_drawn_with_the_comparison_s_figures(
    mpt: Callable[..., Any], tmp_path: Path
) -> None:
    pages_study.study(tmp_path / "sweep")
    compared = mpt("compare", "sweep", "--json")
    assert compared.code == 0, compared.err
    (tmp_path / "comparison.json").write_text(compared.out)
    tool("question.py", "main", tmp_path)["main"](tmp_path / "comparison.json")
    drawn = (tmp_path / "question.svg").read_text()
    comparison = json.loads(compared.out)
    speedup = comparison["pairings"][0]["speedup"]["estimate"]
    for text in (comparison["verdicts"][0]["sentence"], f"{speedup:.2f}"):
        assert f"<!-- {text} -->" in drawn


def test_the_screens_are_taken(
    mpt_process: Callable[..., Any], tmp_path: Path, browser: Any
) -> None:
    pages_study.study(tmp_path / "sweep")
    done = mpt_process("train", "trainer.steps=20", "trainer.log_every=5", "run_dir=run")
    assert done.code == 0, done.err
    names = tool("screenshots.py", "comparison", tmp_path)
    names["comparison"](str(tmp_path / "sweep"))
    names["dashboard"](str(tmp_path / "run"))
    for name, shape in {"compare.png": (900, 1000), "dashboard.png": (1000, 1400)}.items():
        pixels = mpl_image.imread(tmp_path / name)[..., :3]
        assert pixels.shape[:2] == shape
        assert pixels.std() > 0.05, "the page is blank"
