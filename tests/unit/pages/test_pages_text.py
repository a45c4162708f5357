"""The console and Markdown."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from pages_study import study
from rich.cells import cell_len
from rich.console import Console as RichConsole

from mpt.comparison import Comparison, compare
from mpt.comparison.result import Requirement, Unreadable
from mpt.pages import console, markdown, print_comparison
from mpt.pages.cells import Cell, Column, Table
from mpt.pages.markdown import escaped

HOSTILE = "<script>alert(1)</script> | `x` *bold* _it_ @team\nmixed_float16"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = study(tmp_path_factory.mktemp("study"))
    return compare([folder], require="parity")


def table(heads: int) -> Table:
    columns = [Column("group", "group", numeric=False)]
    columns += [Column(f"k{i}", f"column {i}") for i in range(heads)]
    rows = [[Cell(name), *(Cell("10 (9 to 11)") for _ in range(heads))] for name in ("a", "b")]
    return Table("t", "Title", columns, rows)


def test_the_console_ends_with_the_verdict(found: Comparison, capsys: Any) -> None:
    print_comparison(found)
    out = capsys.readouterr().out
    lines = out.splitlines()
    sentence = lines.index(found.verdicts[0].sentence)
    assert lines[sentence + 1] == f"  - {found.verdicts[0].reasons[0]}"
    assert lines[-2].startswith("met: parity: ")
    assert lines[-1].startswith("NOT MET: parity: ")  # a run of it failed
    assert lines.index("What was measured") < lines.index("Against the baseline") < sentence
    assert "\x1b" not in out


def test_lines_of_a_pipe_are_not_wrapped_and_align(found: Comparison, capsys: Any) -> None:
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("What was measured") + 1
    head, *rows = lines[first : first + 4]
    assert len(head) > 150
    end = head.index("examples/s") + len("examples/s")
    assert all(re.search(r"\d\)$", row[:end]) for row in rows)


def test_control_characters_of_a_name_do_not_reach_the_console(capsys: Any) -> None:
    made = Comparison([], [], [], None, None, None, "", notes=["a\x1b[31mred\x07"])
    print_comparison(made)
    out = capsys.readouterr().out
    assert "note: a\\x1b[31mred\\x07" in out
    assert "\x1b" not in out


def test_a_table_takes_the_first_form_that_fits() -> None:
    wide = table(6)
    assert console.fit(wide, 200) == wide
    below = console.fit(wide, 70)
    assert below is not None
    assert below.rows[0][1].text == "10\n(9 to 11)"
    side = console.fit(wide, 40)
    assert side is not None
    assert [column.head for column in side.columns] == ["group", "a", "b"]
    assert [row[0].text for row in side.rows] == [f"column {i}" for i in range(6)]
    assert console.fit(wide, 20) is None


@pytest.mark.parametrize("width", [200, 70, 40, 20])
def test_no_width_of_a_terminal_loses_a_value(width: int) -> None:
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=width, color_system=None)
    console.print_table(terminal, table(6))
    out = stream.getvalue()
    assert " ".join(out.split()).count("(9 to 11)") == 12
    assert all(f"column {i}" in out for i in range(6))
    assert max(map(len, out.splitlines())) <= max(width, 30)


def test_a_path_longer_than_the_terminal_stays_whole() -> None:
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=40, color_system=None)
    path = "/very/long/" + "x" * 80
    console.print_line(terminal, f"  - see {path} for more of it")
    assert path in stream.getvalue()


def test_long_lines_hang_and_lines_of_a_message_stay_lines() -> None:
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=20, color_system=None)
    console.print_line(terminal, "  - one two three four five\n  six")
    assert stream.getvalue() == "  - one two three\n    four five\n  six\n"


def test_markdown_begins_with_the_verdict_and_holds_the_tables(found: Comparison) -> None:
    text = markdown(found)
    assert text.startswith(f"**{escaped(found.verdicts[0].sentence)}**")
    rows = [line for line in text.splitlines() if line.startswith("| mixed_bfloat16 |")]
    speedup = found.pairings[0].speedup
    assert speedup is not None
    assert any(f"| {speedup.estimate:.2f}x (" in row for row in rows)
    assert "diverged: max_consecutive_skips at step 700" in text


def test_markdown_tables_have_as_many_cells_in_each_row(found: Comparison) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", markdown(found), re.M)
    assert len(blocks) >= 6
    for block in blocks:
        counts = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_markdown_takes_text_literally() -> None:
    text = escaped(HOSTILE)
    assert text == (
        "&lt;script&gt;alert(1)&lt;/script&gt; \\| \\`x\\` \\*bold\\* \\_it\\_ &#64;team "
        "mixed_float16"
    )


def test_a_hostile_label_stays_in_its_cell(tmp_path: Path) -> None:
    comparison = compare([study(tmp_path / "few", seeds=1)])
    comparison.groups[1].label = "a|b\n| c |"
    text = markdown(comparison)
    assert "| a\\|b \\| c \\| |" in text


def test_wide_characters_take_the_room_that_they_have() -> None:
    named = table(1)
    named.rows[0][0] = Cell("精度" * 6)
    head, wide, narrow = console.columns(named)
    assert cell_len(head) == cell_len(wide) == cell_len(narrow)
    assert console.fit(named, 35) == console.stacked(named)
    assert console.fit(named, 38) == named
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=20, color_system=None)
    console.print_line(terminal, "精度 精度 精度 精度 精度 精度")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert max(map(cell_len, lines)) <= 20
    assert lines[1] == "  精度 精度"


def test_a_line_that_hangs_keeps_the_room_after_its_label() -> None:
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=20, color_system=None)
    console.print_line(terminal, "status     one two three")
    assert stream.getvalue() == "status     one two\n  three\n"


def test_text_of_a_report_cannot_look_like_a_line_of_ours(tmp_path: Path, capsys: Any) -> None:
    forged = "x\nmet: parity: all is well\r\u2028\u202e\x1b[2J"
    comparison = compare([study(tmp_path / "few", seeds=1)], require="parity")
    comparison.notes.append(forged)
    comparison.groups[1].label = forged
    for pairing in comparison.pairings:
        pairing.speed_text = forged
    for verdict in comparison.verdicts:
        verdict.sentence = verdict.scope = forged
        verdict.reasons.append(forged)
    comparison.requirements = [Requirement("parity", False, forged)]
    comparison.unreadable.append(Unreadable(Path(forged), forged))
    print_comparison(comparison)
    out = capsys.readouterr().out
    assert not [line for line in out.splitlines() if line.startswith("met: ")]
    for text in (out, markdown(comparison)):
        assert [c for c in text if not c.isprintable() and c != "\n"] == []


def test_the_lines_of_a_narrow_terminal_align() -> None:
    stream = io.StringIO()
    terminal = RichConsole(file=stream, force_terminal=True, width=20, color_system=None)
    named = table(2)
    named.columns = [*named.columns[:2], Column("k", "幅")]
    console.print_table(terminal, named)
    lines = [line for line in stream.getvalue().splitlines() if "(9 to" in line or "10" in line]
    starts = {cell_len(line[: line.index("10")]) for line in lines if "10 " in line}
    assert len(starts) == 1
