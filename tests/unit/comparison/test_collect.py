"""Paths, sweeps and patterns to runs; what is no run becomes a row that says why."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mpt.comparison.collect import NO_REPORT, collect
from mpt.errors import ConfigurationError


def names(found: Any) -> list[str]:
    return [run.path.name for run in found.runs]


def reasons(found: Any) -> dict[str, str]:
    return {each.path.name: each.reason for each in found.unreadable}


def test_a_folder_a_report_a_folder_above_and_a_pattern(write_run: Any) -> None:
    for name in ("10", "9", "b"):
        write_run(name)
    folder = write_run.folder
    assert names(collect([folder / "9"])) == ["9"]
    assert names(collect([folder / "9" / "report.json"])) == ["9"]
    assert names(collect([folder])) == ["b", "9", "10"]
    assert names(collect([str(folder / "1*")])) == ["10"]
    assert names(collect([str(folder.parent / "**" / "report.json")])) == ["10", "9", "b"]


def test_files_that_a_shells_pattern_took_along_are_no_rows(write_run: Any) -> None:
    run = write_run("0")
    (write_run.folder / "multirun.yaml").write_text("x: 1")
    found = collect(sorted(write_run.folder.iterdir()))
    assert (names(found), found.unreadable) == (["0"], [])
    with pytest.raises(ConfigurationError, match="no run in these folders"):
        collect([write_run.folder / "multirun.yaml"])
    assert names(collect([run / "report.json"])) == ["0"]


def test_a_run_counts_once(write_run: Any, tmp_path: Path) -> None:
    run = write_run("a")
    (tmp_path / "link").symlink_to(run)
    assert names(collect([run, write_run.folder, run / "report.json", tmp_path / "link"])) == ["a"]


def test_hidden_folders_and_what_lies_in_a_run_are_not_searched(write_run: Any) -> None:
    write_run("a")
    write_run("a/tensorboard/inner")
    write_run(".jobs/replaced/0")
    assert names(collect([write_run.folder])) == ["a"]


@pytest.mark.parametrize("content", [".hydra/config.yaml", "metrics.jsonl"])
def test_a_run_without_a_report_is_a_row(write_run: Any, content: str) -> None:
    write_run("a")
    file = write_run.folder / "b" / content
    file.parent.mkdir(parents=True)
    file.write_text("")
    (write_run.folder / "empty").mkdir()
    assert reasons(collect([write_run.folder])) == {"b": NO_REPORT}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema_version": 1, "run_id"', "not JSON"),
        ("", "not JSON"),
        ('{"tests": 3}', "not a report"),
        ("[1]", "not a JSON object"),
        ('{"schema_version": 1}', "lacks a required key"),
        ('{"schema_version": 99, "mpt_version": "9.1"}', "schema_version 99"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_a_report_that_is_none_is_a_row(write_run: Any, content: Any, said: str) -> None:
    write_run("a")
    bad = write_run.folder / "b" / "report.json"
    bad.parent.mkdir()
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = collect([write_run.folder])
    assert names(found) == ["a"]
    (row,) = found.unreadable
    assert row.path == bad
    assert said in row.reason
    with pytest.raises(ConfigurationError, match=r"No run can be read: .*b/report.json"):
        collect([bad])


def test_a_seed_that_is_none_is_a_row(write_run: Any) -> None:
    write_run("a")
    write_run("b", config__seed="x")
    assert "seed" in reasons(collect([write_run.folder]))["report.json"]


def test_a_sweeps_jobs_that_never_were_runs_are_rows(write_run: Any) -> None:
    write_run("0")
    jobs = [
        {"folder": "0", "status": "completed", "overrides": ["precision=float32"]},
        {"folder": "1", "status": "invalid", "overrides": ["batch_size=-1"]},
        {"folder": "2", "status": "killed", "overrides": ["seed=2"]},
        {"folder": "3", "status": "not_run", "overrides": ["seed=3"]},
    ]
    sweep = write_run.folder / "sweep.json"
    sweep.write_text(json.dumps({"jobs": jobs}))
    (write_run.folder / "2" / ".hydra").mkdir(parents=True)
    expected = {
        "1": "invalid: its configuration or input is wrong (batch_size=-1)",
        "2": "no report: killed (seed=2)",
        "3": "not run: the sweep ended before it (seed=3)",
    }
    assert reasons(collect([write_run.folder])) == expected
    assert reasons(collect([sweep])) == expected
    sweep.write_text('{"jobs": [{"fol')
    assert reasons(collect([write_run.folder]))["sweep.json"] == "not a sweep's list of jobs"


@pytest.mark.parametrize("path", ["nowhere", "nothing-*"])
def test_a_path_that_names_nothing_is_refused(write_run: Any, path: str) -> None:
    write_run("a")
    with pytest.raises(ConfigurationError) as caught:
        collect([write_run.folder, write_run.folder / path])
    assert path in str(caught.value.where)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no run in these folders"):
        collect([tmp_path])


def test_what_is_no_regular_file_is_a_row(write_run: Any) -> None:
    write_run("a")
    for name in ("fifo", "folder", "loop"):
        (write_run.folder / name).mkdir()
    os.mkfifo(write_run.folder / "fifo" / "report.json")
    (write_run.folder / "folder" / "report.json").mkdir()
    loop = write_run.folder / "loop" / "report.json"
    loop.symlink_to(loop)
    found = collect([write_run.folder])
    assert names(found) == ["a"]
    told = {each.path.parent.name: each.reason for each in found.unreadable}
    assert "Not a regular file" in told["fifo"]
    assert "report.json is a folder" in told["folder"]
    assert "No report can be read" in told["loop"]
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        collect([write_run.folder / "fifo" / "report.json"])


def test_runs_that_are_linked_to_are_found_once(write_run: Any, tmp_path: Path) -> None:
    write_run("a")
    gathered = tmp_path / "gathered"
    gathered.mkdir()
    (gathered / "one").symlink_to(write_run.folder / "a")
    (gathered / "round").symlink_to(gathered)
    (gathered / "up").symlink_to(tmp_path)
    assert names(collect([gathered])) == ["one"]


def test_a_folder_that_cannot_be_listed_is_a_row(
    write_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("a")
    (write_run.folder / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # not chmod: root may list every folder
        if os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    found = collect([write_run.folder])
    assert reasons(found) == {"locked": "cannot be listed: Permission denied"}


@pytest.mark.parametrize(
    "job", [{"folder": "\0"}, {"overrides": 5}, {"folder": "x" * 300}, {"overrides": [[]]}]
)
def test_a_sweeps_list_that_holds_anything(write_run: Any, job: dict[str, Any]) -> None:
    write_run("0")
    jobs = [{"folder": "1", "status": "killed", "overrides": ["seed=1"], **job}]
    (write_run.folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    found = collect([write_run.folder])
    assert names(found) == ["0"]
    assert len(found.unreadable) == 1


def test_paths_that_no_system_takes_are_refused(write_run: Any) -> None:
    write_run("a")
    for path in ("x" * 300, "~nobody-of-this-name/x"):
        with pytest.raises(ConfigurationError, match="no such file or folder"):
            collect([path])


def test_a_job_still_at_work_or_unknown_says_what_it_varies(write_run: Any) -> None:
    write_run("0")
    jobs = [
        {"folder": name, "status": status, "overrides": [f"seed={name}"]}
        for name, status in (("1", "running"), ("2", "completed"))
    ]
    for name in ("1", "2", "3"):
        (write_run.folder / name).mkdir()
        (write_run.folder / name / "metrics.jsonl").write_text("")
    (write_run.folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    assert reasons(collect([write_run.folder])) == {
        "1": f"{NO_REPORT} (seed=1)",
        "2": "no report: completed (seed=2)",
        "3": NO_REPORT,
    }


def test_a_pattern_takes_reports_and_folders_only(write_run: Any) -> None:
    run = write_run("a")
    (run / "other.json").write_text("{}")
    (write_run.folder / "notes.json").write_text("{}")
    found = collect([f"{write_run.folder}/**"])
    assert (names(found), found.unreadable) == (["a"], [])
    (row,) = collect([run, write_run.folder / "notes.json"]).unreadable
    assert row.path.name == "notes.json"


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_this_folder(path: str) -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        collect([path])
