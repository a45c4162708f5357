"""docs/reading-a-run.md has each tag that a run writes, with its unit."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpt import smoke

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = "train|validation|throughput|memory|gradients|loss_scale|compute|optimizer|report"
TAG = re.compile(rf"(?:{FAMILIES})/\w+(?:/LAYER)?")
METRICS = ("accuracy",)  # of the run below: METRIC on the page


@pytest.fixture(scope="module")
def described() -> dict[str, list[list[str]]]:
    """Tag -> the cells of its rows: unit, what is bad, what to do."""
    rows: dict[str, list[list[str]]] = {}
    last: list[str] = []
    for line in (ROOT / "docs/reading-a-run.md").read_text().splitlines():
        if not line.startswith("| "):
            continue
        first, *cells = (cell.strip() for cell in line.strip("| \n").split(" | "))
        last = re.findall(rf"`({TAG.pattern})`", line.split("|")[1]) or last * (first == "")
        for tag in last:
            rows.setdefault(tag, []).append(cells)
    rows["gradients/exponents/LAYER"] = [["exponents"]]  # a section of its own, with its own table
    return rows


def in_code() -> Iterator[str]:
    """The tags that the modules of mpt/telemetry list in their docstrings, or name."""
    for file in (ROOT / "mpt/telemetry").glob("*.py"):
        tree = ast.parse(file.read_text())
        docstring = ast.get_docstring(tree) or ""
        yield from re.findall(rf"^ +({TAG.pattern})(?=:|  )", docstring, re.MULTILINE)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and TAG.fullmatch(str(node.value)):
                yield str(node.value)


def test_the_page_has_every_tag_of_the_telemetry(described: dict[str, Any]) -> None:
    found = set(in_code())
    assert len(found) > 20
    assert found | {*smoke.PROMISED_TAGS, *smoke.GRADIENT_TAGS, *smoke.DEVICE_TAGS} <= set(
        described
    )


def test_every_tag_has_its_unit_and_what_to_do(described: dict[str, list[list[str]]]) -> None:
    for tag, rows in described.items():
        assert any(row[0] for row in rows), tag
        assert "exponents" in tag or all(len(row) == 3 and row[1] and row[2] for row in rows), tag


def test_the_page_has_no_tag_that_nothing_writes(described: dict[str, Any]) -> None:
    of_loop = {"train/loss", "train/METRIC", "validation/loss", "validation/METRIC"}
    assert set(described) <= set(in_code()) | of_loop


def test_the_page_has_every_tag_of_a_real_run(
    described: dict[str, Any], mpt: Callable[..., Any], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = mpt(
        *("train", "precision=mixed_float16", "trainer.steps=4", "trainer.log_every=2"),
        *("trainer.eval_every=2", "telemetry.histogram_every=2", "batch_size=16"),
        *("trainer.warmup_steps=1", "run_dir=run"),
    )
    assert done.code == 0, done.err
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    written = {key for line in lines for key in json.loads(line)}
    written -= {"step", "epoch", "wall_seconds"}
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload().Tags()
    written |= {*events["scalars"], *events["histograms"]}
    texts = {tag for tag in events["tensors"] if tag.startswith("run/")}
    written |= {tag for tag in events["tensors"] if TAG.match(tag)}
    assert len(written) >= 25
    page = {_general(tag) for tag in written}
    assert page <= set(described), page - set(described)
    assert any("exponents" in tag for tag in page)
    board = (ROOT / "docs/tensorboard.md").read_text()
    assert len(texts) == 3
    assert all(f"`{tag}`" in board for tag in texts)


def _general(tag: str) -> str:
    """The name that the page has for a tag."""
    if tag.startswith("gradients/exponents/"):
        return "gradients/exponents/LAYER"
    family, _, name = tag.partition("/")
    return f"{family}/METRIC" if name in METRICS else tag
