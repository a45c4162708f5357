"""`mpt doctor` as a process: what it tells of this machine, and where TensorFlow is broken."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def doctor(*words, path=(), python=(sys.executable, "-m", "mpt"), cwd=None, **variables):
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
    return subprocess.run(
        [*python, "doctor", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def broken(tmp_path):
    """A folder that comes before the real TensorFlow, with one that does `text`."""

    def make(text):
        (tmp_path / "tensorflow.py").write_text(text)
        return (str(tmp_path),)

    return make


def test_all_of_it_as_json(tmp_path):
    import keras
    import tensorflow as tf

    done = doctor("--json")
    content = json.loads(done.stdout)
    assert done.stderr == ""
    assert content["tensorflow"]["version"] == tf.__version__
    assert content["tensorflow"]["keras"] == keras.__version__
    assert content["tensorflow"]["cuda_built"] == tf.sysconfig.get_build_info().get("cuda_version")
    assert content["tensorflow"]["stage"] == "xla"
    assert content["tensorflow"]["xla_seconds"] > 0
    assert content["hardware"]["cores"] >= 1
    assert content["precision"]["auto"] in ("float32", "mixed_float16", "mixed_bfloat16")
    problems = [each for each in content["findings"] if each["level"] == "problem"]
    assert done.returncode == (1 if problems else 0)


def test_the_quick_part_imports_no_tensorflow(broken):
    done = doctor("--quick", path=broken("raise SystemExit('imported')"))
    assert done.returncode == 0, done.stdout
    assert "tensorflow" not in done.stdout.split("precision")[0]
    for row in ("mpt", "python", "packages", "cpu", "memory", "gpu", "folder", "precision", "pays"):
        assert f"\n{row} " in f"\n{done.stdout}"
    assert done.stdout.splitlines()[-1].startswith(("no problems", "problems: 0"))


def test_a_current_folder_that_was_removed(tmp_path):
    in_it = ("bash", "-c", 'rmdir "$PWD"; exec "$0" -m mpt "$@"', sys.executable)
    told = {}
    for number, words in enumerate([("--json",), ("--quick",), ("data",)]):
        (tmp_path / str(number)).mkdir()
        told[words[0]] = doctor(*words, python=in_it, cwd=tmp_path / str(number))
    content = json.loads(told["--json"].stdout)
    assert content["environment"]["folder"] is None
    assert content["tensorflow"]["stage"] == "xla"
    (problem,) = [each for each in content["findings"] if each["level"] == "problem"]
    assert (problem["about"], "was removed" in problem["message"]) == ("folder", True)
    assert "folder       removed\n" in told["--quick"].stdout
    assert (told["--json"].returncode, told["--quick"].returncode) == (1, 1)
    assert told["data"].returncode == 2
    assert told["data"].stderr.startswith("error: The current folder was removed.\n")


def test_a_tensorflow_that_cannot_be_imported(broken):
    path = broken('raise ImportError("libcudart.so.12: cannot open shared object file")')
    done = doctor(path=path)
    assert done.returncode == 1
    assert "tensorflow   cannot be imported" in done.stdout
    assert "problem: TensorFlow cannot be imported: ImportError: libcudart.so.12" in done.stdout
    assert "to do:   a build against other CUDA libraries" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_tensorflow_that_kills_its_process(broken):
    path = broken("import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    content = json.loads(doctor("--json", path=path).stdout)
    assert content["tensorflow"]["ended_by"] == "SIGILL"
    assert content["findings"][0]["about"] == "tensorflow"


def test_training_points_to_the_doctor(broken, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mpt", "train"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*broken("1 / 0"), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "division by zero (TensorFlow cannot be imported; `mpt doctor` tells" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_another_backend_of_keras_is_refused(mpt, monkeypatch, tmp_path):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    done = mpt("train")
    assert done.code == 2
    assert "Keras computes with jax" in done.err
    assert "KERAS_BACKEND=tensorflow" in done.err
    assert list(tmp_path.iterdir()) == []


def test_it_helps_where_nothing_is_installed(tmp_path):
    """No psutil, no Hydra, no TensorFlow: an interpreter alone, and mpt's files."""
    venv.create(tmp_path / "bare", with_pip=False)
    done = doctor(python=(str(tmp_path / "bare/bin/python"), "-m", "mpt"))
    assert done.returncode == 1
    assert done.stderr == ""
    assert "problem: TensorFlow cannot be imported: ModuleNotFoundError: No module" in done.stdout
    assert "to do:   python -m pip install 'tensorflow>=2.21,<2.22' 'keras" in done.stdout


def test_what_it_does_not_know(mpt):
    done = mpt("doctor", "--jsno")
    assert done.code == 2
    assert "did you mean '--json'?" in done.err
