"""The command line as people meet it: help, flags, one run, a sweep, what is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mpt import __version__
from mpt.cli import COMMANDS

HEAVY = ("tensorflow", "keras", "sklearn", "torch")

# Runs the command line in a fresh interpreter and then prints which modules it had imported.
PROBE = """
import sys
from mpt.cli import main
code = main(sys.argv[1:])
heavy = [name for name in {names!r} if name in sys.modules]
print("PROBE", code, ",".join(heavy), file=sys.stderr)
"""


def probe(tmp_path, *words, names=HEAVY):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(names=names), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("PROBE"))
    _, code, *imported = line.split()
    return int(code), imported


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("--version",)])
def test_help_and_version_import_nothing_heavy(tmp_path, words):
    assert probe(tmp_path, *words, names=(*HEAVY, "hydra", "omegaconf", "rich")) == (0, [])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("train", "--cfg", "job"), 0),
        (("train", "--info", "defaults"), 0),
        (("train", "precision=mixed_float61"), 2),
        (("train", "trainer.stepz=1"), 2),
        (("train", "batch_size=0"), 2),
        (("train", "model.filters=many"), 2),
        (("train", "dataset.shuffle=7"), 2),
        (("train", "model._target_=os.system"), 2),
        (("train", "-m", "seed=0,x"), 2),
        (("trane",), 2),
    ],
)
def test_answers_about_the_configuration_import_no_tensorflow(tmp_path, words, code):
    assert probe(tmp_path, *words) == (code, [])


@pytest.mark.slow
def test_the_parent_of_a_sweep_imports_no_tensorflow(tmp_path):
    # A data file that is not there: each child finds out by itself, and the parent goes on.
    words = ("train", "-m", "dataset=arrays", "dataset.path=absent.npz", "seed=0,1")
    assert probe(tmp_path, *words) == (2, [])
    assert list(tmp_path.iterdir()) == []


class TestHelp:
    def test_no_command(self, mpt):
        result = mpt()
        assert (result.code, result.out) == (2, "")
        assert "usage: mpt" in result.err

    def test_version(self, mpt):
        assert mpt("--version").out == f"mpt {__version__}\n"
        assert mpt("train", "--version").out == f"mpt {__version__}\n"

    def test_unknown_command_with_the_nearest(self, mpt):
        result = mpt("tran")
        assert result.code == 2
        assert "did you mean 'train'?" in result.err

    def test_overrides_without_a_command(self, mpt):
        result = mpt("precision=float32", "trainer.steps=5")
        assert result.code == 2
        assert "to do:   mpt train precision=float32 trainer.steps=5\n" in result.err

    @pytest.mark.parametrize("command", ["inspect --strct", "probe --batchs 2", "bisect --rapid"])
    def test_an_unknown_flag_of_a_subcommand(self, mpt, command):
        result = mpt(*command.split())
        assert result.code == 2
        own = {"inspect": "--strict", "probe": "--batches", "bisect": "--config-dir"}
        assert own[command.split()[0]] in result.err
        assert "--multirun" not in result.err
        if "bisect" not in command:
            assert f"did you mean '{own[command.split()[0]]}'?" in result.err

    def test_train_help_shows_groups_choices_defaults_and_recipes(self, mpt):
        text = mpt("train", "--help").out
        for word in (
            "cnn*",
            "digits*",
            "mixed_bfloat16",
            "smoke",
            *("seed_cnn", "imagenet_resnet50", "  ImageNet by ResNet-50 in mixed_float16"),
            "--allow",
            "examples:",
        ):
            assert word in text

    def test_train_help_shows_the_user_s_own_choices(self, mpt, tmp_path):
        (tmp_path / "mine" / "model").mkdir(parents=True)
        (tmp_path / "mine" / "model" / "tiny.yaml").write_text("name: tiny\n")
        assert " tiny" in mpt("train", "--help", "--config-dir", "mine").out

    def test_train_help_waits_for_no_pipe(self, mpt_process, tmp_path):
        (tmp_path / "c" / "recipe").mkdir(parents=True)
        os.mkfifo(tmp_path / "c" / "recipe" / "r.yaml")
        assert "\n  r " in mpt_process("train", "--config-dir", "c", "--help", timeout=20).out


class TestHydra:
    def test_a_folder_that_cannot_be_read(self, mpt, tmp_path, monkeypatch):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "model").mkdir()
        stat = os.stat

        def refuse(path, *args, **kwargs):  # not chmod: root may read every folder
            if str(path) == "mine/model":
                raise PermissionError(13, "Permission denied", path)
            return stat(path, *args, **kwargs)

        monkeypatch.setattr(os, "stat", refuse)
        done = mpt("train", "--config-dir", "mine", "model=x", "--cfg", "job")
        assert done.code == 2
        assert "This folder cannot be read: Permission denied." in done.err
        assert "--config-dir (mine)" in done.err

    def test_cfg_shows_the_composed_configuration(self, mpt):
        result = mpt("train", "seed=3", "--cfg", "job", "trainer.steps=5")
        assert result.code == 0
        assert "seed: 3\n" in result.out
        assert "  epochs: null\n  steps: 5\n" in result.out

    def test_info(self, mpt):
        assert "precision" in mpt("train", "--info", "defaults").out

    @pytest.mark.parametrize(
        "command", ["train --info config", "train --info all", "train --cfg job", "--help"]
    )
    def test_an_answer_that_nobody_reads_to_its_end(self, tmp_path, command):
        program = [sys.executable, "-m", "mpt", *command.split()]
        to = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True}
        with open("/dev/full", "w") as full:
            done = subprocess.run(program, stdout=full, check=False, **to)
        assert done.stderr == (
            "error: stdout cannot be written: No space left on device.\n  where:   stdout\n"
        )
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(program, stdout=write, check=False, **to)
        os.close(write)
        assert (done.returncode, done.stderr) == (1, "")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_of_one_s_own_choices(self, mpt, tmp_path, runs):
        (tmp_path / "mine" / "trainer").mkdir(parents=True)
        (tmp_path / "mine" / "trainer" / "short.yaml").write_text("epochs: null\nsteps: 4\n")
        assert mpt("train", "--config-dir", "mine", "trainer=short").code == 0
        assert runs[0].config.trainer.steps == 4

    def test_a_choice_that_is_no_plain_yaml_is_named_with_its_line(self, mpt, tmp_path):
        (tmp_path / "mine/model").mkdir(parents=True)
        file = tmp_path / "mine/model/odd.yaml"
        file.write_text("name: odd\nunits: !!python/tuple [1]\n")
        done = mpt("train", "--config-dir", "mine", "model=odd")
        assert done.code == 2
        assert f"where:   {file}:2\n" in done.err

    def test_completion(self, mpt, monkeypatch):
        monkeypatch.setenv("COMP_LINE", "mpt train precision=mixed_b")
        assert mpt("-sc", "query=bash").out.split() == ["precision=mixed_bfloat16"]
        monkeypatch.setenv("COMP_LINE", "mpt probe --batches 2 precision=mixed_b")
        assert mpt("-sc", "query=bash").out.split() == ["precision=mixed_bfloat16"]
        monkeypatch.setenv("COMP_LINE", "mpt ")
        assert mpt("-sc", "query=bash").out.split() == list(COMMANDS)
        monkeypatch.setenv("COMP_LINE", "mpt tr")
        assert mpt("-sc", "query=bash").out.split() == ["train"]


class TestOneRun:
    def test_the_runner_gets_the_configuration_and_its_folder(self, mpt, runs, tmp_path):
        result = mpt("train", "precision=mixed_float16", "-q", "--allow", "mine", "seed=4")
        assert result.code == 0
        (run,) = runs
        assert (run.config.precision.policy, run.config.seed) == ("mixed_float16", 4)
        assert run.run_dir.parent.parent == tmp_path / "runs"
        assert run.run_dir.name.rsplit("_", 1)[0].endswith("cnn_mixed_float16")
        assert run.arguments["verbosity"] == -1
        assert run.arguments["allow"] == ("mine",)
        assert run.arguments["command"] == ["mpt", "train", "precision=mixed_float16", "seed=4"]
        assert set(run.arguments["composed"]) == {"config", "overrides", "hydra"}
        assert "seed=4" in run.arguments["composed"]["overrides"]

    def test_a_folder_of_one_s_own(self, mpt, runs, tmp_path):
        assert mpt("train", "run_dir=here/mine").code == 0
        assert runs[0].run_dir == tmp_path / "here" / "mine"

    def test_nothing_is_left_where_the_runner_made_nothing(self, mpt, runs, tmp_path):
        mpt("train")
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_folder_that_was_there_stays(self, mpt, runs, tmp_path):
        (tmp_path / "mine").mkdir()
        mpt("train", "run_dir=mine")
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_the_exit_code_is_the_runner_s(self, mpt, runs, monkeypatch):
        monkeypatch.setattr(sys.modules["mpt.runner"], "run", lambda *a, **k: 3)
        assert mpt("train").code == 3

    def test_an_unforeseen_error_is_one_block_and_a_traceback_with_debug(
        self, mpt, runs, monkeypatch
    ):
        def broken(*_, **__):
            raise RuntimeError("the disk is gone")

        monkeypatch.setattr(sys.modules["mpt.runner"], "run", broken)
        result = mpt("train")
        assert result.code == 1
        assert result.err.startswith("error: RuntimeError: the disk is gone\n")
        assert "Traceback" not in result.err
        assert "Traceback" in mpt("train", "--debug").err

    def test_an_interrupt_ends_with_130(self, mpt, runs, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.modules["mpt.runner"], "run", interrupted)
        assert mpt("train").code == 130

    def test_an_interrupt_that_a_library_turned_into_another_error(self, mpt, runs, monkeypatch):
        def turned(*_, **__):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                raise AttributeError("half loaded") from None

        monkeypatch.setattr(sys.modules["mpt.runner"], "run", turned)
        result = mpt("train")
        assert (result.code, "AttributeError" in result.err) == (130, False)
        monkeypatch.setattr(sys.modules["mpt.runner"], "run", lambda *_, **__: 1 / 0)
        assert mpt("train").code == 1, "that is none of the next run's"

    @pytest.mark.parametrize("how", ["flag", "variable"])
    def test_debug_shows_the_traceback_of_a_configuration_error(self, mpt, monkeypatch, how):
        if how == "variable":
            monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        result = mpt("train", "batch_size=0", *(["--debug"] if how == "flag" else []))
        assert result.code == 2
        assert "Traceback" in result.err
        assert result.err.rstrip().endswith("at least 1")

    def test_allow_comes_from_the_environment_too(self, mpt, runs, monkeypatch):
        monkeypatch.setenv("MPT_ALLOW", "a,b.py")
        mpt("train", "--allow=c")
        assert runs[0].arguments["allow"] == ("a", "b.py", "c")
