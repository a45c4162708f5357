"""The pictures of terminals show what the commands print today."""

import html
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
DRAWN = ("train.svg", "doctor.svg", "test.svg")
TEXT = re.compile(r"<text [^>]*y=\"([\d.]+)\"[^>]*>(.*?)</text>")


def shown(name: str) -> list[str]:
    """The lines of text of a picture, from the top."""
    lines: dict[float, str] = {}
    for y, text in TEXT.findall((IMAGES / name).read_text()):
        plain = html.unescape(text).replace("\xa0", " ")
        lines[float(y)] = lines.get(float(y), "") + plain
    return [lines[y].rstrip() for y in sorted(lines)]


def rows(lines: list[str]) -> list[str]:
    """The names of rows, without those of steps, whose number is the run's."""
    names = [re.split(r" {2,}|: ", line)[0] for line in lines if line.strip()]
    titles = ("$ ", "make train", "mpt doctor")
    return [name for name in names if not name.startswith(("step ", "...", *titles))]


def steps(lines: list[str]) -> set[str]:
    """What lines of steps tell, whatever the numbers are."""
    return {re.sub(r"\d[\d.e+-]*", "#", line) for line in lines if line.startswith("step ")}


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/tools/terminal.py"))


def test_a_training_prints_the_rows_of_its_picture(mpt: Callable[..., Any]) -> None:
    printed = mpt("train", "trainer.epochs=2", "telemetry.peak=true")
    assert printed.code == 0
    expected = rows(shown("train.svg"))
    assert len(expected) > 20
    assert rows(printed.out.splitlines()) == expected
    assert steps(shown("train.svg")) == steps(printed.out.splitlines())


def test_the_tests_are_called_as_in_their_picture() -> None:
    command, dots, *end = shown("test.svg")[2:]
    makefile = (ROOT / "Makefile").read_text()
    ((options, chosen),) = re.findall(
        r"^PYTEST := \$\(BIN\)/(.*?)\n.*?^\t\$\(PYTEST\) (-m .*?) \$\(ARGS\)$",
        makefile,
        re.M | re.S,
    )
    assert (command.strip(), dots) == (f".venv/bin/{options} {chosen}", "...")
    assert re.match(r"=+ \d+ passed(, \d+ skipped)? in ", end[-1])


def test_the_doctor_prints_the_rows_of_its_picture(mpt: Callable[..., Any]) -> None:
    expected = rows(shown("doctor.svg"))
    printed = rows(mpt("doctor").out.splitlines())
    of_a_machine = ("variable", "warning", "note", "problem", "to do", "no problems")
    same = [name for name in printed if not name.strip().startswith(of_a_machine)]
    assert same == [name for name in expected if name != "no problems"]


def test_the_steps_in_the_middle_are_left_out(tool: dict[str, Any]) -> None:
    lines = ["head", *(f"step {n}/9 loss 1" for n in range(1, 10)), "tail"]
    assert tool["shortened"]("\n".join(lines)).splitlines() == [
        *("head", "step 1/9 loss 1", "step 2/9 loss 1", "..."),
        *("step 8/9 loss 1", "step 9/9 loss 1", "tail"),
    ]


def test_a_picture_needs_nothing_from_a_network(tool: dict[str, Any]) -> None:
    drawn = tool["picture"]("mpt", "mpt train", "a & b\n<c>")
    for text in (drawn, *((IMAGES / name).read_text() for name in DRAWN)):
        assert not re.search(r"url\((?!#)|@import|href=", text)
    assert [line for line in (html.unescape(t) for _, t in TEXT.findall(drawn)) if "<c>" in line]


@pytest.mark.parametrize("name", DRAWN[:2])
def test_no_machine_s_folder_is_in_a_picture(name: str) -> None:
    paths = re.findall(r"(?:^| )(/\S+)", "\n".join(shown(name)), re.MULTILINE)
    assert paths
    assert all(path.startswith("/home/me") for path in paths)
