"""Sweeps: jobs, their outcomes, what a signal leaves, and what `resume` runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpt import report
from mpt.report import RunReport

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def codes(monkeypatch):
    """Replaces the child processes: each job makes its folder and ends with the next code."""
    codes: list[int] = []

    def spawn(job, **_):
        code = codes.pop(0)
        if code == 130:
            raise KeyboardInterrupt
        if code in (0, 3):
            folder = Path(job.run_dir)
            folder.mkdir(parents=True, exist_ok=True)
            ended = RunReport("id", "name", job.command, "", job.config)
            ended.status = "completed" if code == 0 else "diverged"
            ended.metrics.best = report.Best(0.9, 1, "validation/accuracy")
            ended.throughput.examples_per_second = 123.0
            (folder / "report.json").write_text(json.dumps(ended.to_json()))
        return code

    monkeypatch.setattr("mpt.commands.sweep_task.spawn", spawn)
    return codes


def sweep(mpt, *words):
    return mpt("train", "-m", "seed=0,1,2", *words)


def content_of(folder):
    (file,) = Path(folder).glob("sweeps/*/*/sweep.json")
    return file, json.loads(file.read_text())


class TestSweep:
    @pytest.mark.parametrize(
        ("given", "code"),
        [([0, 0, 0], 0), ([0, 3, 0], 3), ([3, 0, 3], 3), ([0, 3, 4], 1), ([0, -9, 0], 1)],
    )
    def test_exit_code(self, mpt, codes, given, code):
        codes += given
        assert sweep(mpt).code == code
        assert codes == []  # the others ran on

    def test_outcomes_are_in_sweep_json_and_the_table(self, mpt, codes, tmp_path):
        codes += [0, 3, 0]
        result = sweep(mpt, "batch_size=8")
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
        assert lines[2].split()[:4] == ["1", "seed=1", "diverged", "3"]  # batch_size is common
        assert lines[-1] == f"sweep: {file.parent}"

    def test_jobs_refused_by_their_children_leave_no_folder(self, mpt, codes, tmp_path):
        codes += [2, 2, 2]
        assert sweep(mpt).code == 2
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
        sweep(mpt)
        sweep(mpt)
        assert len(list(tmp_path.glob("sweeps/*/*/sweep.json"))) == 2

    def test_a_recipe_can_be_a_sweep(self, mpt, codes):
        codes += [0] * 4
        assert mpt("train", "recipe=four_policies").code == 0
        assert codes == []

    def test_run_dir_is_not_a_sweep_s(self, mpt, codes, tmp_path):
        result = sweep(mpt, "run_dir=mine")
        assert result.code == 2
        assert "hydra.sweep.dir" in result.err
        assert list(tmp_path.iterdir()) == []

    def test_a_killed_job_has_a_report_and_a_status(self, mpt, codes, tmp_path):
        codes += [0, -9, -11]
        result = sweep(mpt)
        file, content = content_of(tmp_path)
        assert [job["status"] for job in content["jobs"]] == ["completed", "killed", "failed"]
        assert result.code == 1
        killed = report.read(file.parent / "1")
        assert (killed.status, killed.exit_code) == ("killed", 137)
        assert killed.config["seed"] == 1
        assert report.read(file.parent / "2").reason.message == "SIGSEGV ended it from within"

    def test_a_typo_shows_before_anything_has_run(self, mpt, codes, tmp_path):
        result = mpt("train", "-m", "seed=0,1", "precision=float32,mixed_flaot16")
        assert result.code == 2
        assert "mixed_float16" in result.err
        assert list(tmp_path.iterdir()) == []

    def test_a_sweep_is_not_put_on_top_of_another(self, mpt, codes, tmp_path):
        codes += [0] * 3
        sweep(mpt, "hydra.sweep.dir=mine")
        before = sorted(tmp_path.rglob("*"))
        result = sweep(mpt, "hydra.sweep.dir=mine")
        assert result.code == 2
        assert "resume=" in result.err
        assert sorted(tmp_path.rglob("*")) == before

    def test_what_is_returned_guides_a_sweeper(self, mpt, codes, monkeypatch):
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        returned = []
        inner = BasicSweeper.sweep

        def noted(self, arguments):
            returned.extend(inner(self, arguments))

        monkeypatch.setattr(BasicSweeper, "sweep", noted)
        codes += [0, 0, -9]
        sweep(mpt)
        assert [job.return_value for job in returned[0]] == [0.9, 0.9, None]

    def test_each_job_has_its_largest_batch_searched_for(self, mpt, codes, tmp_path, monkeypatch):
        from mpt.batch_search import SearchFailed

        searched = []

        def settle(job, **_):
            searched.append((job.config["seed"], job.config["batch_size"]))
            if job.config["seed"] == 1:
                raise SearchFailed("Not even a batch of 1 fits.", 4)
            return job

        monkeypatch.setattr("mpt.commands.sweep_task.settle", settle)
        codes += [0, 0]
        result = sweep(mpt, "batch_size=max")
        assert searched == [(0, "max"), (1, "max"), (2, "max")]
        file, content = content_of(tmp_path)
        assert [job["status"] for job in content["jobs"]] == ["completed", "oom", "completed"]
        assert report.read(file.parent / "1").reason.message == "Not even a batch of 1 fits."
        assert result.code == 4

    def test_a_job_that_finds_another_s_run_in_its_folder_did_not_complete(
        self, mpt, codes, tmp_path
    ):
        codes += [0, 2]
        assert mpt("train", "-m", "seed=0,1", "hydra.sweep.subdir=x").code == 2
        jobs = content_of(tmp_path)[1]["jobs"]
        assert [(job["status"], job["best"]) for job in jobs] == [
            ("completed", 0.9),
            ("invalid", None),
        ]

    def test_a_sweep_of_no_jobs_is_an_error(self, mpt, codes, tmp_path):
        result = mpt("train", "-m", "seed=range(0)")
        assert result.code == 2
        assert "no jobs" in result.err
        assert list(tmp_path.iterdir()) == []

    def test_a_typo_in_a_later_batch_leaves_what_is_done(self, mpt, codes, tmp_path):
        codes += [0, 0]
        result = mpt("train", "-m", "seed=0,1,x", "hydra.sweeper.max_batch_size=1")
        assert result.code == 2
        file, content = content_of(tmp_path)
        assert [job["status"] for job in content["jobs"]] == ["completed"] * 2
        assert (file.parent / ".jobs" / "1.json").exists()
        assert result.out.splitlines()[-1] == f"sweep: {file.parent}"

    @pytest.mark.parametrize("lost", ["1/report.json", ".jobs/1.json"])
    def test_a_full_disk_is_said_and_the_table_shown(self, mpt, codes, monkeypatch, lost):
        from mpt.run_folder import RunFolder

        write = RunFolder.write_text

        def full(self, name, text):
            if f"{self.path.name}/{name}" == lost:
                raise OSError(28, "No space left on device")
            return write(self, name, text)

        monkeypatch.setattr(RunFolder, "write_text", full)
        codes += [0, -9, 0] if lost == "1/report.json" else [0, 0]
        result = sweep(mpt)
        assert result.code == 1
        assert "No space left on device" in result.err
        status = "killed" if lost == "1/report.json" else "not"
        rows = [line.split()[2] for line in result.out.splitlines()[1:4]]
        assert rows == ["completed", status, "completed"]
        assert "Traceback" not in result.err


class TestResume:
    def resume(self, mpt, tmp_path, *words):
        file, _ = content_of(tmp_path)
        return mpt("train", "-m", *(words or ["seed=0,1,2"]), f"resume={file.parent}")

    def statuses(self, tmp_path):
        return [job["status"] for job in content_of(tmp_path)[1]["jobs"]]

    def test_an_interrupt_keeps_what_is_done(self, mpt, codes, tmp_path):
        codes += [0, 130]
        assert sweep(mpt).code == 75  # it can be resumed
        assert self.statuses(tmp_path) == ["completed", "interrupted", "not_run"]

    def test_only_what_is_missing_is_run(self, mpt, codes, tmp_path):
        codes += [0, 130]
        sweep(mpt)
        file, _ = content_of(tmp_path)
        done = (file.parent / "0" / "report.json").stat().st_mtime_ns
        codes += [0, 0]
        result = self.resume(mpt, tmp_path)
        assert (result.code, codes) == (0, [])
        assert self.statuses(tmp_path) == ["completed"] * 3
        assert (file.parent / "0" / "report.json").stat().st_mtime_ns == done
        assert [report.read(file.parent / str(i)).config["seed"] for i in range(3)] == [0, 1, 2]
        assert "job 0: seed=0: completed before" in result.err

    def test_a_divergence_is_a_result_and_a_kill_is_not(self, mpt, codes, tmp_path):
        codes += [3, -9, 4]
        sweep(mpt)
        codes += [0, 0]
        assert self.resume(mpt, tmp_path).code == 3
        assert self.statuses(tmp_path) == ["diverged", "completed", "completed"]

    def test_the_folder_of_what_is_run_again_is_kept(self, mpt, codes, tmp_path):
        codes += [0, -9, 0]
        sweep(mpt)
        codes += [0]
        self.resume(mpt, tmp_path)
        file, _ = content_of(tmp_path)
        (aside,) = (file.parent / ".jobs" / "replaced").iterdir()
        assert report.read(aside).status == "killed"

    def test_a_resumed_run_is_the_same_run(self, mpt, codes, tmp_path):
        codes += [0, -9, 0]
        sweep(mpt)
        codes += [0]
        self.resume(mpt, tmp_path)
        file, _ = content_of(tmp_path)
        groups = {report.read(file.parent / str(index)).group_hash for index in range(3)}
        assert len(groups) == 1

    @pytest.mark.parametrize("words", [["seed=0,7,2"], ["seed=0,1,2", "batch_size=64"]])
    def test_another_configuration_is_refused(self, mpt, codes, tmp_path, words):
        codes += [0, 0, -9]
        sweep(mpt)
        result = self.resume(mpt, tmp_path, *words)
        assert result.code == 2
        assert "another configuration" in result.err
        assert self.statuses(tmp_path) == ["completed", "completed", "killed"]

    def test_a_wider_sweep_adds_jobs(self, mpt, codes, tmp_path):
        codes += [0, 0, 0]
        sweep(mpt)
        codes += [0]
        assert self.resume(mpt, tmp_path, "seed=0,1,2,3").code == 0
        assert self.statuses(tmp_path) == ["completed"] * 4

    @pytest.mark.parametrize(
        "folder", ["it's a 'sweep'", "50% = half", "back\\slash", "a,b [c] {d: e}"]
    )
    def test_folders_of_any_name(self, mpt, codes, tmp_path, folder):
        from mpt.composition import assign

        codes += [0, -9]
        words = ["seed=0,1", assign("hydra.sweep.dir", folder)]
        mpt("train", "-m", *words, "hydra.sweep.subdir=job_${hydra.job.override_dirname}")
        folder = tmp_path / folder
        jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
        assert [job["folder"] for job in jobs] == ["job_seed=0", "job_seed=1"]
        codes += [0]
        subdir = "hydra.sweep.subdir=job_${hydra.job.override_dirname}"
        result = mpt("train", "-m", "seed=0,1", assign("resume", folder), subdir)
        assert (result.code, codes) == (0, [])
        assert report.read(folder / "job_seed=1").status == "completed"

    def test_a_sweep_killed_in_its_first_job_is_resumed_too(self, mpt, codes, tmp_path):
        codes += [0, 0, 0]
        sweep(mpt)
        file, _ = content_of(tmp_path)
        file.unlink()
        for index in (0, 1, 2):
            (file.parent / ".jobs" / f"{index}.json").unlink()
        codes += [0, 0, 0]
        result = mpt("train", "-m", "seed=0,1,2", f"resume={file.parent}")
        assert (result.code, codes) == (0, [])

    def test_a_narrower_sweep_keeps_the_others(self, mpt, codes, tmp_path):
        codes += [0, 0, 0]
        sweep(mpt)
        assert self.resume(mpt, tmp_path, "seed=0").code == 0
        assert self.statuses(tmp_path) == ["completed"] * 3

    def test_a_sweep_at_work_is_not_resumed(self, mpt, codes, tmp_path):
        import fcntl

        codes += [0, 0, -9]
        sweep(mpt)
        file, _ = content_of(tmp_path)
        with open(file.parent / ".jobs" / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = self.resume(mpt, tmp_path)
        assert result.code == 2
        assert "Another process runs this sweep" in result.err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["train", "-m", "seed=0,1", "resume=absent"], "no sweep.json"),
            (["train", "resume=absent"], "no sweep.json"),
            (["train", "-m", "seed=0,1", "resume=[x"], "resume=[x"),
            (["train", "-m", "seed=0,1", "resume=com,ma"], "resume=com,ma"),
            (["inspect", "resume=absent"], "command line of mpt train"),
        ],
    )
    def test_a_folder_without_a_sweep(self, mpt, words, said):
        result = mpt(*words)
        assert result.code == 2
        assert said in result.err

    def test_one_run_cannot_resume_a_sweep(self, mpt, codes, tmp_path):
        codes += [0, 0, 0]
        sweep(mpt)
        file, _ = content_of(tmp_path)
        result = mpt("train", f"resume={file.parent}")
        assert result.code == 2
        assert "with -m" in result.err

    def test_two_folders_for_one_sweep(self, mpt, codes, tmp_path):
        codes += [0, 0, 0]
        sweep(mpt)
        result = self.resume(mpt, tmp_path, "seed=0,1,2", "hydra.sweep.dir=other")
        assert result.code == 2
        assert "hydra.sweep.dir" in result.err


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
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
"""


@pytest.fixture
def sleeping_sweep(tmp_path):
    """A sweep whose children only sleep; `python` reads sitecustomize in each of them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CHILD)
    process = subprocess.Popen(
        [sys.executable, "-m", "mpt", "train", "-m", "seed=0,1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "site")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
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
        assert sleeping_sweep.returncode == 75

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
