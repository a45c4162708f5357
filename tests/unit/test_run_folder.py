"""The run folder: made once, written atomically, read while it grows."""

import json
import math
import os
import stat
from pathlib import Path

import pytest

from mpt.errors import ConfigurationError
from mpt.run_folder import RunFolder, read_metrics


def test_it_is_made_with_its_parents_and_empty(tmp_path):
    with RunFolder.create(tmp_path / "runs" / "today" / "one") as folder:
        assert folder.path == tmp_path / "runs" / "today" / "one"
        assert [path.name for path in folder.path.iterdir()] == [".lock"]
    assert list(folder.path.iterdir()) == []


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunFolder.create("one") as folder:
        assert folder.path == tmp_path / "one"


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl", "model.keras", "precision.json"])
def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigurationError, match="a run in this folder already") as caught:
        RunFolder.create(tmp_path)
    assert str(tmp_path) in caught.value.where
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_other_files_may_stay(tmp_path):
    for name in ("notes.txt", ".partial-novel.txt"):
        (tmp_path / name).write_text("mine")
    with RunFolder.create(tmp_path) as folder:
        folder.write_json("report.json", {})
    for name in ("notes.txt", ".partial-novel.txt"):
        assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            RunFolder.create(path)


def test_a_folder_without_permission_is_an_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # Not chmod: to root, which CI often is, every folder is writable.
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ConfigurationError, match="Permission denied") as caught:
        RunFolder.create(tmp_path / "one")
    assert caught.value.remedy


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_json("report.json", {"loss": math.nan, "path": tmp_path})
    before = (tmp_path / "report.json").read_text()
    assert json.loads(before) == {"loss": "NaN", "path": str(tmp_path)}

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        folder.write_json("report.json", {"loss": 1})
    assert (tmp_path / "report.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path):
    with RunFolder.create(tmp_path / "r") as folder:
        folder.write_hydra(config="a: 1\n")
        folder.write_json("report.json", {})
    kept = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    for name in ("r/.partial-123-report.json", "r/.hydra/.partial-9-config.yaml"):
        (tmp_path / name).write_text("{")
    (tmp_path / "r/.partial-model.keras").write_bytes(b"PK")
    with RunFolder.reopen(tmp_path / "r"):
        found = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert found - kept == {Path("r/.lock")}


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    with RunFolder.create(tmp_path) as folder:
        folder.write_json("report.json", {})
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "report.json")]
    assert modes[0] == modes[1]


def test_hydra_files_lie_where_hydra_lays_them(tmp_path):
    RunFolder(tmp_path).write_hydra(config="seed: 0\n", overrides="- seed=0\n", hydra="a: 1")
    found = {path.name: path.read_text() for path in (tmp_path / ".hydra").iterdir()}
    assert found == {
        "config.yaml": "seed: 0\n",
        "overrides.yaml": "- seed=0\n",
        "hydra.yaml": "a: 1",
    }


def test_metrics_are_readable_after_each_row(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        folder.append_metrics({"step": 50, "epoch": 1, "train/loss": 0.5, "memory/device": None})
        assert read_metrics(tmp_path) == [{"step": 50, "epoch": 1, "train/loss": 0.5}]
        folder.append_metrics({"step": 100, "epoch": 2, "train/loss": math.inf})
        assert read_metrics(tmp_path / "metrics.jsonl")[1]["train/loss"] == math.inf


def test_not_a_number_is_kept_in_the_metrics(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        folder.append_metrics({"step": 1, "train/loss": math.nan})
    assert '"NaN"' in (tmp_path / "metrics.jsonl").read_text()
    assert math.isnan(read_metrics(tmp_path)[0]["train/loss"])


def test_a_partial_last_line_is_ignored(tmp_path):
    file = tmp_path / "metrics.jsonl"
    # Even where what is there so far happens to be JSON.
    for partial in ('{"step": 2, "tr', '{"step": 2}', '{"a": "\xe9'.encode("latin-1")):
        rest = partial if isinstance(partial, bytes) else partial.encode()
        file.write_bytes(b'{"step": 1}\n' + rest)
        assert read_metrics(file) == [{"step": 1}]


def test_a_broken_line_before_the_last_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ConfigurationError) as caught:
        read_metrics(file)
    assert caught.value.where == f"{file}:2"


def test_missing_metrics_are_an_error(tmp_path):
    with pytest.raises(ConfigurationError, match="No metrics"):
        read_metrics(tmp_path)


def test_the_log_takes_lines_that_utf8_cannot_hold(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        folder.log("first")
        folder.log("path \udcff")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["first", "path \\udcff"]
    assert lines[0].split(" ")[0].endswith("Z")


def test_artifacts_are_named_relative_to_the_folder(tmp_path):
    (tmp_path / "one").mkdir()
    folder = RunFolder(tmp_path / "one")
    assert folder.relative(folder.tensorboard) == "tensorboard"
    assert folder.relative(folder.path / "a" / "b.keras") == "a/b.keras"


@pytest.mark.parametrize("line", ["[]", "3", "null", '"a"'])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ConfigurationError, match="not a row") as caught:
        read_metrics(file)
    assert caught.value.where == f"{file}:2"


def test_metrics_that_are_a_pipe_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        read_metrics(tmp_path)
