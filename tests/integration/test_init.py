"""`mpt init`: the project that it makes, and what it refuses."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mpt.new_project import TEMPLATE


def test_a_project_composes_by_the_command_that_is_printed(mpt, runs, tmp_path, monkeypatch):
    done = mpt("init", "spiral-arms")
    assert done.code == 0
    folder = tmp_path / "spiral-arms"
    told = re.findall(r"^  spiral-arms/(\S+)$", done.out, re.MULTILINE)
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == set(told)
    assert len(files) == sum(path.suffix == ".template" for path in TEMPLATE.rglob("*"))
    assert not any("$" in (folder / name).read_text() for name in files)
    (command,) = re.findall(r"^  mpt (train .*)$", done.out, re.MULTILINE)
    assert command in (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    assert mpt(*shlex.split(command)).code == 0
    (run,) = runs
    assert run.config.model["function"] == "spiral_arms.model:build"
    assert run.config.dataset["classes"] == 3
    assert run.arguments["allow"] == ("spiral_arms",)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the name of one new folder"),
        (["a", "b"], "the name of one new folder"),
        (["--name"], "the name of one new folder"),
        (["1st"], "cannot be a project's name"),
        (["class"], "cannot be a project's name"),
        (["a b"], "cannot be a project's name"),
        (["json"], "a Python package"),
        (["keras"], "a Python package"),
        (["cnn"], "a choice that mpt has"),
        (["needs_scaling"], "a choice that mpt has"),
        *(([word], "is no text") for word in ("True", "null", "ON", "off", "nan", "Inf", "yes")),
        *(([word], "a Python package") for word in ("test", "pip", "google", "yaml")),
        (["n" * 300], "cannot be written: File name too long"),
        (["/"], "'' cannot be a project's name"),
        (["there"], "stays as it is"),
        (["file"], "stays as it is"),
        (["file/below"], "cannot be written"),
    ],
)
def test_what_cannot_be_made(mpt, tmp_path, words, says):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/kept.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    done = mpt("init", *words)
    assert done.code == 2
    assert says in done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept.txt", "there"]


def test_an_empty_folder_elsewhere_will_do(mpt, tmp_path):
    (tmp_path / "deep/mine").mkdir(parents=True)
    assert mpt("init", "deep/mine").code == 0
    assert (tmp_path / "deep/mine/mine/model.py").exists()


def test_a_folder_of_that_name_where_python_searches_is_no_package(mpt, tmp_path, monkeypatch):
    (tmp_path / "searched/mine").mkdir(parents=True)
    (tmp_path / "searched/theirs.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "searched")
    assert mpt("init", "deep/mine").code == 0
    assert "a Python package" in mpt("init", "theirs").err


def test_the_current_folder_by_its_own_name(mpt, tmp_path, monkeypatch):
    (tmp_path / "spirals").mkdir()
    monkeypatch.chdir(tmp_path / "spirals")
    done = mpt("init", ".")
    assert done.code == 0, done.err
    assert (tmp_path / "spirals/spirals/model.py").exists()
    assert "recipe=spirals\n" in done.out
    assert "cd " not in done.out
    assert "stays as it is" in mpt("init", ".").err


@pytest.mark.slow
def test_the_project_trains_and_passes_its_own_test(mpt_process, tmp_path):
    assert mpt_process("init", "spirals").code == 0
    folder = tmp_path / "spirals"
    root = str(Path(__file__).resolve().parents[2])
    own = subprocess.run(
        [sys.executable, "-m", "unittest"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert own.returncode == 0, own.stderr
    words = ("--config-dir", "configs", "--allow", "spirals", "recipe=spirals")
    done = subprocess.run(
        [sys.executable, "-m", "mpt", "train", *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^best\s+validation/accuracy (\S+)", done.stdout, re.MULTILINE)
    assert float(accuracy[1]) > 0.9
