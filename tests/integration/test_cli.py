"""The command line as people meet it: help, flags, one run, a sweep, what is left behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

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

    def test_train_help_shows_groups_choices_defaults_and_recipes(self, mpt):
        text = mpt("train", "--help").out
        for word in (
            "cnn*",
            "digits*",
            "mixed_bfloat16",
            "smoke",
            "seed_cnn",
            "--allow",
            "examples:",
        ):
            assert word in text

    def test_train_help_shows_the_user_s_own_choices(self, mpt, tmp_path):
        (tmp_path / "mine" / "model").mkdir(parents=True)
        (tmp_path / "mine" / "model" / "tiny.yaml").write_text("name: tiny\n")
        assert " tiny" in mpt("train", "--help", "--config-dir", "mine").out


class TestHydra:
    def test_cfg_shows_the_composed_configuration(self, mpt):
        result = mpt("train", "seed=3", "--cfg", "job", "trainer.steps=5")
        assert result.code == 0
        assert "seed: 3\n" in result.out
        assert "  epochs: null\n  steps: 5\n" in result.out

    def test_info(self, mpt):
        assert "precision" in mpt("train", "--info", "defaults").out

    def test_a_folder_of_one_s_own_choices(self, mpt, tmp_path, runs):
        (tmp_path / "mine" / "trainer").mkdir(parents=True)
        (tmp_path / "mine" / "trainer" / "short.yaml").write_text("epochs: null\nsteps: 4\n")
        assert mpt("train", "--config-dir", "mine", "trainer=short").code == 0
        assert runs[0].config.trainer.steps == 4

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


class TestSweep:
    @pytest.fixture
    def codes(self, monkeypatch):
        """Replaces the child processes: each job makes its folder and ends with the next code."""
        codes: list[int] = []

        def spawn(job, **_):
            code = codes.pop(0)
            if code not in (2, -9):
                folder = Path(job.run_dir)
                folder.mkdir(parents=True, exist_ok=True)
                best = {"name": "validation/accuracy", "value": 0.9}
                report = {"status": "completed", "metrics": {"best": best}}
                (folder / "report.json").write_text(json.dumps(report))
            return code

        monkeypatch.setattr("mpt.commands.sweep.spawn", spawn)
        return codes

    def sweep(self, mpt, *words):
        return mpt("train", "-m", "seed=0,1,2", *words)

    @pytest.mark.parametrize(
        ("given", "code"),
        [([0, 0, 0], 0), ([0, 3, 0], 3), ([3, 0, 3], 3), ([0, 3, 4], 1), ([0, -9, 0], 1)],
    )
    def test_exit_code(self, mpt, codes, given, code):
        codes += given
        assert self.sweep(mpt).code == code
        assert codes == []  # the others ran on

    def test_outcomes_are_in_sweep_json_and_the_table(self, mpt, codes, tmp_path):
        codes += [0, 3, 0]
        result = self.sweep(mpt, "batch_size=8")
        (file,) = tmp_path.glob("sweeps/*/*/sweep.json")
        content = json.loads(file.read_text())
        assert [job["exit_code"] for job in content["jobs"]] == [0, 3, 0]
        assert [job["overrides"] for job in content["jobs"]] == [
            [f"seed={seed}", "batch_size=8"] for seed in range(3)
        ]
        assert [job["folder"] for job in content["jobs"]] == ["0", "1", "2"]
        lines = result.out.splitlines()
        assert lines[0].split() == [
            "job",
            "overrides",
            "status",
            "exit",
            "validation/accuracy",
            "examples/s",
        ]
        assert lines[2].split()[:4] == ["1", "seed=1", "completed", "3"]  # batch_size is common
        assert lines[-1] == f"sweep: {file.parent}"

    def test_jobs_refused_by_their_children_leave_no_folder(self, mpt, codes, tmp_path):
        codes += [2, 2, 2]
        assert self.sweep(mpt).code == 2
        assert list(tmp_path.iterdir()) == []

    def test_a_job_with_a_wrong_configuration_lets_the_others_run(self, mpt, codes, tmp_path):
        codes += [0, 0]
        result = mpt("train", "-m", "batch_size=8,0,16")
        assert (result.code, codes) == (2, [])
        assert "batch_size=0 is out of range" in result.err
        (file,) = tmp_path.glob("sweeps/*/*/sweep.json")
        statuses = [job["status"] for job in json.loads(file.read_text())["jobs"]]
        assert statuses == ["completed", "invalid", "completed"]
        assert not (file.parent / "1").exists()

    def test_two_sweeps_of_one_second_keep_apart(self, mpt, codes, tmp_path):
        codes += [0] * 6
        self.sweep(mpt)
        self.sweep(mpt)
        assert len(list(tmp_path.glob("sweeps/*/*/sweep.json"))) == 2

    def test_a_recipe_can_be_a_sweep(self, mpt, codes):
        codes += [0] * 4
        assert mpt("train", "recipe=four_policies").code == 0
        assert codes == []

    def test_run_dir_is_not_a_sweep_s(self, mpt, codes, tmp_path):
        result = self.sweep(mpt, "run_dir=mine")
        assert result.code == 2
        assert "hydra.sweep.dir" in result.err
        assert list(tmp_path.iterdir()) == []


CHILD = """
import sys, time, types
runner = types.ModuleType("mpt.runner")
def run(config, run_dir, **arguments):
    print("training", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        return 75
    return 0
runner.run = run
sys.modules["mpt.runner"] = runner
import mpt.isolation
mpt.isolation.import_tensorflow = lambda verbosity: None
"""


@pytest.fixture
def sleeping_sweep(tmp_path):
    """A sweep whose children only sleep; `python` reads sitecustomize in each of them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CHILD)
    import os

    root = str(Path(__file__).resolve().parents[2])
    # A shell starts background jobs with SIGINT ignored, and children would inherit that.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "mpt", "train", "-m", "seed=0,1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path / "site")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, previous)
    assert process.stdout.readline() == "training\n"
    yield process
    process.kill()
    process.communicate()


def _child_of(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestSignals:
    def test_an_interrupt_reaches_the_child_and_ends_the_sweep(self, sleeping_sweep):
        sleeping_sweep.send_signal(signal.SIGINT)
        sleeping_sweep.communicate(timeout=20)
        assert sleeping_sweep.returncode == 130

    def test_a_child_does_not_survive_its_parent(self, sleeping_sweep):
        child = _child_of(sleeping_sweep.pid)
        sleeping_sweep.kill()
        sleeping_sweep.wait(timeout=10)
        for _ in range(100):
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                return
            time.sleep(0.1)
        pytest.fail("the child is still there after ten seconds")
