"""`mpt show` as its user calls it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages_study import metrics, report, write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    content = report("mixed_float16", 0, tmp_path / "run")
    content["warnings"] = ["float16 without units for it"]
    return write(tmp_path / "run", content, metrics(content))


def test_it_prints_what_was_measured(mpt: Callable[..., Any], run: Path) -> None:
    result = mpt("show", "run")
    assert result.code == 0
    content = json.loads((run / "report.json").read_text())
    lines = result.out.splitlines()
    speed = content["throughput"]["examples_per_second"]
    assert any(f"{speed:.0f} examples/s" in line for line in lines)
    assert "warning      float16 without units for it" in lines
    assert lines[-1] == "run: run"
    assert "Precision of each layer" not in result.out


def test_verbose_adds_the_precision_of_each_layer(mpt: Callable[..., Any], run: Path) -> None:
    lines = mpt("show", "run", "-v").out.splitlines()
    first = lines.index("Precision of each layer")
    assert lines[first + 2].split() == ["dense", "Dense", "float32", "float16", "global"]
    assert lines[first + 3].split() == ["head", "Dense", "float32", "float32", "head"]


def test_quiet_says_how_it_ended_and_where_it_lies(mpt: Callable[..., Any], run: Path) -> None:
    assert mpt("show", "run", "-q").out.splitlines() == ["status       completed", "run: run"]


def test_json_is_the_report_alone(mpt: Callable[..., Any], run: Path) -> None:
    result = mpt("show", "run/report.json", "--json")
    printed = json.loads(result.out)
    written = json.loads((run / "report.json").read_text())
    for key in ("status", "throughput", "metrics", "config"):
        assert (
            {**printed[key], **written[key]} == printed[key]
            if isinstance(written[key], dict)
            else printed[key] == written[key]
        )


def test_the_page_is_written_beside_what_is_printed(
    mpt: Callable[..., Any], run: Path, tmp_path: Path
) -> None:
    result = mpt("show", "run", "--html", "run.html", "--json")
    assert result.code == 0
    json.loads(result.out)
    assert result.err == "page: run.html\n"
    assert "plot" in (tmp_path / "run.html").read_text()


def test_a_run_that_failed_is_shown_with_0(mpt: Callable[..., Any], run: Path) -> None:
    content = json.loads((run / "report.json").read_text())
    content |= {"status": "diverged", "exit_code": 3}
    content["reason"] = {"rule": "max_consecutive_skips", "step": 7, "message": "50 in a row"}
    (run / "report.json").write_text(json.dumps(content))
    result = mpt("show", "run")
    assert result.code == 0
    assert "diverged at step 7 (max_consecutive_skips): 50 in a row" in result.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs a run"),
        (["a", "b"], "takes one run; 2 were given"),
        (["run", "--htm", "x"], "has no flag --htm"),
        (["run", "--html"], "--html needs a value"),
        (["absent"], "No report can be read"),
        (["run", "--html", "absent/x.html"], "The page cannot be written"),
    ],
)
def test_a_wrong_command_line_is_one_block(
    mpt: Callable[..., Any], run: Path, words: list[str], said: str
) -> None:
    result = mpt("show", *words)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def _unfinished(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("")


def _sweep(folder: Path) -> None:
    (folder / "sweep.json").write_text("{}")


def _newer(folder: Path) -> None:
    (folder / "report.json").write_text('{"schema_version": 99, "mpt_version": "9.9"}')


def _foreign(folder: Path) -> None:
    (folder / "report.json").write_text('{"accuracy": 1}')


def _half(folder: Path) -> None:
    (folder / "report.json").write_text('{"schema_version": 1, "na')


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no run in this folder"),
        (_unfinished, "still running, or was killed"),
        (_sweep, "the folder of a sweep"),
        (_newer, "use the mpt that wrote it (9.9)"),
        (_foreign, "not a report: no schema_version"),
        (_half, "not JSON"),
    ],
)
def test_a_folder_without_a_report_says_what_it_is(
    mpt: Callable[..., Any], tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder")
    result = mpt("show", "folder")
    assert result.code == 2
    assert said in result.err
    assert "folder" in result.err


def test_damaged_metrics_leave_the_report_to_see(mpt: Callable[..., Any], run: Path) -> None:
    (run / "metrics.jsonl").write_text('not JSON\n{"step": 1}\n')
    result = mpt("show", "run", "--html", "run.html")
    assert result.code == 0
    assert "warning: no curves" in result.err
    assert "completed" in result.out


def test_curves_have_their_times_only_where_every_row_has(run: Path) -> None:
    from mpt.pages import read_run

    found = read_run(run)
    curve = found.curves["validation/accuracy"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if "validation/accuracy" in row]
    assert list(curve.steps) == [row["step"] for row in timed]
    assert curve.seconds is not None
    assert list(curve.seconds) == [row["wall_seconds"] for row in timed]
    assert found.skips == [400, 1600]
    del rows[3]["wall_seconds"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(run).curves["train/loss"].seconds is None


def test_help_has_examples(mpt: Callable[..., Any]) -> None:
    out = mpt("show", "--help").out
    assert "mpt show runs/" in out
    assert "--html FILE" in out


def test_a_path_that_is_not_utf_8_is_shown_escaped(mpt: Callable[..., Any], tmp_path: Path) -> None:
    name = os.fsdecode(b"run\xff")
    content = report("float32", 0, tmp_path / name)
    write(tmp_path / name, content, metrics(content))
    shown = mpt("show", name, "--html", "run.html")
    assert shown.code == 0
    assert shown.out.splitlines()[-1] == "run: run\\udcff"
    compared = mpt("compare", name, "--html", "compare.html", "--markdown")
    assert compared.code == 0
    assert "run\\udcff" in (tmp_path / "compare.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", ['"NaN"', '"Infinity"', "1e999"])
def test_a_step_that_is_not_finite_is_no_point(run: Path, step: str) -> None:
    from mpt.pages import read_run

    row = f'{{"step": {step}, "wall_seconds": 1, "loss_scale/skipped_steps": 99, "a": 1}}\n'
    (run / "metrics.jsonl").write_text(row)
    found = read_run(run)
    assert (found.curves, found.skips) == ({}, [])


def test_a_folder_that_may_not_be_entered_says_so(
    mpt: Callable[..., Any], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
            if "run/" in os.fsdecode(path):
                raise PermissionError(13, "Permission denied", path)
            return real(path, *args, **kwargs)

        return refuse

    monkeypatch.setattr("os.stat", refusing(os.stat))
    monkeypatch.setattr("os.lstat", refusing(os.lstat))
    result = mpt("show", "run")
    assert result.code == 2
    assert "No report can be read: Permission denied" in result.err


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name"])
def test_a_path_that_no_system_takes(mpt: Callable[..., Any], name: str) -> None:
    result = mpt("show", name)
    assert result.code == 2
    assert "No report can be read" in result.err


def test_metrics_that_are_a_pipe_leave_the_report_to_see(
    mpt: Callable[..., Any], run: Path
) -> None:
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    result = mpt("show", "run")
    assert result.code == 0
    assert "warning: no curves: No metrics can be read: Not a regular file" in result.err


def test_a_message_cannot_look_like_a_row_of_ours(mpt: Callable[..., Any], run: Path) -> None:
    content = json.loads((run / "report.json").read_text())
    content |= {"status": "failed", "exit_code": 1}
    message = "first\nstatus       completed\r\nrun: /elsewhere\u2028best  1\x1b[2J\u202e"
    content["reason"] = {"rule": "rule", "step": 7, "message": message}
    content["warnings"] = ["one\nrun: /elsewhere"]
    (run / "report.json").write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text("oops\n")
    lines = mpt("show", "run").out.splitlines()
    starts = [line.split(maxsplit=1)[0] for line in lines if not line.startswith(" ")]
    assert starts.count("status") == 1
    assert starts.count("run:") == 1
    assert "             status       completed" in lines
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_folders_name_cannot_look_like_a_line_of_ours(
    mpt: Callable[..., Any], tmp_path: Path
) -> None:
    name = "x\nrun: \x1b[2Jy"
    content = report("float32", 0, tmp_path / name)
    write(tmp_path / name, content, metrics(content))
    (tmp_path / name / "metrics.jsonl").write_text("oops\n")
    result = mpt("show", name)
    assert result.out.splitlines()[-1] == "run: x\\nrun: \\x1b[2Jy"
    assert len(result.err.splitlines()) == 1
    assert "\x1b" not in result.err
    absent = mpt("show", "no\x1b[2J")
    assert absent.code == 2
    assert "no\\x1b[2J" in absent.err
