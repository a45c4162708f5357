"""The wheel and the source distribution: what is in them, and that they work by themselves."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from mpt import __version__

ROOT = Path(__file__).resolve().parents[2]
NAME = f"mpt_keras-{__version__}"


def build(source, folder, *targets):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *targets],
        cwd=source,
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with both distributions of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


def wheel(folder):
    with zipfile.ZipFile(folder / f"{NAME}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_the_package_its_configuration_and_its_templates(built):
    files = wheel(built)
    folders = {name.split("/")[0] for name in files}
    assert folders == {"mpt", f"{NAME}.dist-info"}
    for group in ("configs", "recipes"):
        shipped = {path.relative_to(ROOT / group) for path in (ROOT / group).rglob("*.yaml")}
        assert {f"mpt/{group}/{path}" for path in shipped} <= set(files)
        assert shipped
    assert "mpt/new_project/template/.gitignore.template" in files
    assert {"mpt/py.typed", "mpt/pages/page.css", "mpt/report/run_report.schema.json"} <= set(files)
    assert files[f"{NAME}.dist-info/entry_points.txt"].split() == (
        b"[console_scripts]\nmpt = mpt.cli:command".split()
    )
    assert any(name.endswith("licenses/LICENSE") for name in files)


def test_its_metadata(built):
    said = Parser().parsestr(wheel(built)[f"{NAME}.dist-info/METADATA"].decode())
    assert (said["Name"], said["Version"]) == ("mpt-keras", __version__)
    assert said["Requires-Python"] == "<3.14,>=3.11"
    assert said["License-Expression"] == "Apache-2.0"
    required = [line for line in said.get_all("Requires-Dist") if "extra" not in line]
    for package in ("tensorflow", "hydra-core", "omegaconf", "rich", "tensorboard"):
        assert any(re.match(rf"{package}\b", line) for line in required)
    assert {"gpu", "joblib", "submitit", "ray", "tfds"} <= set(said.get_all("Provides-Extra"))


def test_the_source_distribution_makes_the_same_wheel(built, tmp_path):
    archive = built / f"{NAME}.tar.gz"
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    shutil.unpack_archive(archive, tmp_path)  # tarfile's own filters are newer than Python 3.11.2
    assert {"README.md", "LICENSE", "CHANGELOG.md", "Makefile", "tests/conftest.py"} <= names
    assert not any(name.startswith(("runs/", "sweeps/", "build/", ".venv/")) for name in names)
    build(tmp_path / NAME, tmp_path, "-t", "wheel")
    assert wheel(tmp_path) == wheel(built) | {
        name: content for name, content in wheel(tmp_path).items() if name.endswith("RECORD")
    }


@pytest.mark.slow
def test_both_work_in_an_environment_of_their_own(built, tmp_path):
    """Installed from the index, without this checkout, and run from another folder."""
    venv.create(tmp_path / "venv", with_pip=True)
    program = tmp_path / "venv/bin"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MPT_ALLOW")}

    def run(*words):
        done = subprocess.run(
            [program / words[0], *words[1:]],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    run("pip", "install", "--quiet", str(built / f"{NAME}-py3-none-any.whl"))
    assert run("mpt", "--version") == f"mpt {__version__}\n"
    where = run("python", "-c", "import mpt; print(mpt.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert "needs_scaling" in run("mpt", "train", "--help")
    assert "packages     all" in run("mpt", "doctor")
    assert re.search("status +completed", run("mpt", "train", "trainer=smoke"))
    assert "recipe=mine" in run("mpt", "init", "mine")
    run("pip", "uninstall", "--quiet", "--yes", "mpt-keras")
    run("pip", "install", "--quiet", str(built / f"{NAME}.tar.gz"))
    shown = run("mpt", "train", "trainer.steps=2", "precision=mixed_bfloat16")
    assert (elsewhere / shown.splitlines()[-1].removeprefix("run: ") / "report.json").is_file()
