"""`mpt train resume=RUN`, and the same command again: what may change, and what is refused.

A refusal changes nothing: the folder is the same, byte for byte.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import resumed_runs
import yaml
from resumed_runs import FILE, curves, report_of, rows, train, words

from mpt.checkpoint import Checkpoints
from mpt.cli import main

DIGITS = ("dataset=digits", "dataset.examples=320", "precision=float32")  # eight steps an epoch
NOT_FINITE = (
    *("dataset=python", f"dataset.function={FILE}:bad_for_a_while", "precision=float32"),
    "loss_scale.max_consecutive_skips=2",
)


@pytest.fixture(scope="module")
def own_code():
    patched = pytest.MonkeyPatch()
    patched.setenv("MPT_ALLOW", resumed_runs.ALLOWED)
    patched.setattr(sys, "path", [str(FILE.parent), *sys.path])
    yield
    patched.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory, own_code):
    """`made(name)` is the folder of a run that was trained once: done, cut or diverged."""
    found = {}

    def call(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            patched = pytest.MonkeyPatch()
            patched.chdir(folder)
            if name == "cut":
                signals = [["train_batch_end", 10, "SIGTERM"]]
                (folder / "signals.json").write_text(json.dumps(signals))
            own, code = {
                "done": (DIGITS, 0),
                "cut": (DIGITS, 75),
                "diverged": ([*NOT_FINITE, "dataset.kwargs={first: 10, last: 12}"], 3),
            }[name]
            assert train(main, folder / "run", *own) == code
            patched.undo()
            found[name] = folder / "run"
        return found[name]

    return call


@pytest.fixture
def run(made, mpt, tmp_path, monkeypatch):
    """`run(name)` is a copy of such a run, `tmp_path/run`."""
    monkeypatch.setenv("MPT_ALLOW", resumed_runs.ALLOWED)

    def call(name):
        shutil.copytree(made(name), tmp_path / "run")
        resumed_runs.forget_this_process()
        return tmp_path / "run"

    return call


def content(folder):
    """Every file in a folder, with its digest."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


class TestDone:
    @pytest.mark.parametrize("way", ["resume", "command"])
    def test_a_run_that_is_done_says_so(self, run, mpt, way):
        folder = run("done")
        before = content(folder)
        result = mpt(*(words(folder, *DIGITS) if way == "command" else ["train", "resume=run"]))
        assert result.code == 0, result.err
        assert "This run is done: completed after 26 steps" in result.out + result.err
        assert result.out.rstrip().splitlines()[-1] == f"run: {folder}"
        assert content(folder) == before

    def test_one_that_diverged_ends_as_it_did(self, run, mpt):
        folder = run("diverged")
        before = content(folder)
        result = mpt("train", f"resume={folder}")
        assert result.code == 3
        assert "max_consecutive_skips" in result.out + result.err
        assert "on_divergence=rollback" in result.out + result.err
        assert content(folder) == before

    def test_it_goes_on_to_more_steps(self, run, mpt):
        folder = run("done")
        result = mpt("train", "resume=run", "trainer.steps=40", "trainer.keep=1")
        assert result.code == 0, result.err
        report = report_of(folder)
        training = report["training"]
        assert (training["steps"], training["resumed_from_step"]) == (40, 26)
        assert report["config"]["trainer"]["steps"] == 40
        steps = [int(row["step"]) for row in rows(folder)]
        assert steps == sorted(set(steps))
        assert steps[-3:] == [32, 35, 40]
        scalars, _ = curves(folder)
        shown = [step for step, _ in scalars["train/loss"]]
        assert shown == [step for step in steps if step not in (8, 16, 24, 32)]
        newest = Checkpoints(folder)
        assert set(newest.steps()) <= {newest.newest().step, *newest.steps()}
        assert newest.newest().step == 40
        # And once more by itself: it is done.
        assert "after 40 steps" in mpt("train", "resume=run").out

    @pytest.mark.slow
    def test_a_diverged_one_goes_on_from_its_last_good_checkpoint(self, run, mpt):
        folder = run("diverged")
        result = mpt("train", "resume=run", "trainer.on_divergence=rollback")
        assert result.code == 0, result.err
        training = report_of(folder)["training"]
        assert training["resumed_from_step"] == 8
        assert [entry["to_step"] for entry in training["rollbacks"]] == [8]
        assert training["steps"] == 26


class TestRefused:
    def refuse(self, folder, mpt, *given):
        """Exit code 2, one block on stderr, and the folder as it was; the block."""
        before = content(folder)
        result = mpt("train", *given)
        assert result.code == 2, result.out
        assert "Traceback" not in result.err
        assert content(folder) == before
        return result.err[result.err.index("error: ") :]

    @pytest.mark.parametrize(
        ("override", "key", "way"),
        [
            ("optimizer.learning_rate=0.5", "optimizer.learning_rate", "resume"),
            ("optimizer.learning_rate=0.5", "optimizer.learning_rate", "command"),
            ("precision.policy=mixed_bfloat16", "precision.policy", "resume"),
            ("dataset.shuffle=false", "dataset.shuffle", "command"),
        ],
    )
    def test_a_value_that_shapes_the_result(self, run, mpt, override, key, way):
        folder = run("cut")
        given = ["resume=run", override]
        if way == "command":
            given = [*words(folder, *DIGITS)[1:], override]
        error = self.refuse(folder, mpt, *given)
        assert f"another configuration: {key}\n" in error

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["optimizer=sgd"], "optimizer=sgd"),
            (["--cfg", "job"], "--cfg"),
            (["-m"], "-m"),
            (["-m", "seed=1,2"], "-m"),
            (["trainer.stpes=9"], "trainer.stpes"),
            (["+trainer.more=9"], "trainer.more"),
            (["trainer.steps"], "trainer.steps"),
            (["trainer.steps=-1"], "trainer.steps"),
            (["trainer.steps=many"], "trainer.steps"),
        ],
    )
    def test_what_is_no_value_of_the_run(self, run, mpt, given, said):
        assert said in self.refuse(run("cut"), mpt, "resume=run", *given)

    def test_fewer_steps_than_it_has_come_to(self, run, mpt):
        error = self.refuse(run("cut"), mpt, "resume=run", "trainer.steps=9")
        assert "step 10 already" in error
        assert "trainer.steps" in error

    @pytest.mark.parametrize("kind", ["nothing", "empty", "file", "sweepless"])
    def test_a_folder_that_is_no_run(self, mpt, tmp_path, kind):
        if kind == "empty":
            (tmp_path / "run").mkdir()
        elif kind == "file":
            (tmp_path / "run").write_text("x")
        elif kind == "sweepless":
            (tmp_path / "run/0").mkdir(parents=True)
        result = mpt("train", "resume=run")
        assert result.code == 2
        assert "There is nothing to resume in this folder" in result.err
        assert kind == "nothing" or (tmp_path / "run").exists()
        assert sorted(os.listdir(tmp_path)) == ([] if kind == "nothing" else ["run"])

    @pytest.mark.parametrize(
        "text",
        [b"", b"model: [", b"\xff\xfe", b"a: 1", b"seed: {}\n", b"- 1", b"seed: ${nothing}\n"],
    )
    def test_a_configuration_that_cannot_be_read(self, run, mpt, text):
        folder = run("cut")
        (folder / ".hydra/config.yaml").write_bytes(text)
        self.refuse(folder, mpt, "resume=run")

    def test_one_that_cannot_be_read_is_none_to_write_over(self, run, mpt):
        folder = run("cut")
        (folder / ".hydra/config.yaml").write_bytes(b"model: [")
        self.refuse(folder, mpt, *words(folder, *DIGITS)[1:])

    def test_other_data(self, mpt, tmp_path):
        x, y = np.random.default_rng(0).normal(size=(320, 8, 8, 1)), np.arange(320) % 4
        np.savez(tmp_path / "data.npz", x=x.astype("float32"), y=y)
        own = ("dataset=arrays", f"dataset.path={tmp_path}/data.npz", "precision=float32")
        own += ("model=mlp", "trainer.steps=6", "trainer.callbacks=[]", "model.function=null")
        own = ("model=mlp", *(word for word in own if not word.startswith("model")))
        command = ["train", *own, "trainer.epochs=null", "run_dir=run", "telemetry.peak=false"]
        assert mpt(*command).code == 0
        x[7, 0, 0, 0] += 1
        np.savez(tmp_path / "data.npz", x=x.astype("float32"), y=y)
        error = self.refuse(tmp_path / "run", mpt, "resume=run", "trainer.steps=9")
        assert "fingerprint" in error


def test_a_run_cut_short_goes_on_by_either_command(run, mpt):
    folder = run("cut")
    result = mpt("train", "resume=run", "trainer.checkpoint_every=3", "trainer.keep=1", "-q")
    assert result.code == 0, result.err
    training = report_of(folder)["training"]
    assert (training["steps"], training["resumed_from_step"]) == (26, 10)
    assert len(Checkpoints(folder).steps()) <= 2  # the newest, and the best
    assert report_of(folder)["config"]["trainer"]["checkpoint_every"] == 3
    asked = yaml.safe_load((folder / ".hydra/overrides.yaml").read_text())
    assert "dataset=digits" in asked
    assert asked[-2:] == ["trainer.checkpoint_every=3", "trainer.keep=1"]
    assert "hydra:" in (folder / ".hydra/hydra.yaml").read_text()


@pytest.mark.slow
def test_a_second_process_in_the_same_folder_is_refused(mpt, tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_ALLOW", resumed_runs.ALLOWED)
    own = ("model.kwargs={slow: {training: [1, 0.2]}}", "trainer.steps=500", *DIGITS)
    command = words(tmp_path / "run", *own)
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(FILE.parent)])
    first = subprocess.Popen(
        [sys.executable, "-m", "mpt", *command],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not (tmp_path / "slow.txt").exists():
            assert first.poll() is None, first.stdout.read()
        for given in (command, ["train", "resume=run"]):
            result = mpt(*given)
            assert result.code == 2, result.out
            assert "Another process is training in this folder" in result.err
    finally:
        first.send_signal(signal.SIGTERM)
        output, _ = first.communicate(timeout=60)
    assert first.returncode == 75, output


@pytest.mark.slow
def test_the_largest_batch_is_searched_once(tmp_path):
    command = [
        *("train", "batch_size=max", "model=mlp", "dataset=digits", "dataset.examples=20"),
        *("trainer.epochs=null", "trainer.steps=20", "telemetry.peak=false", "precision=float32"),
        "run_dir=run",
    ]

    def call(*given):
        done = subprocess.run(
            [sys.executable, "-m", "mpt", *given],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "batch_size=max: " in call(*command)
    size = report_of(tmp_path / "run")["training"]["batch_size"]
    assert "batch_size=max: " not in call("train", "resume=run", "trainer.steps=30")
    report = report_of(tmp_path / "run")
    assert report["training"]["batch_size"] == size
    assert report["training"]["resumed_from_step"] == 20
    assert report["config"]["batch_size"] == "max"
