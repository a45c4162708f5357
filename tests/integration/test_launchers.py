"""Hydra's launchers, each as it is installed: what becomes of a sweep's jobs.

The jobs' processes are real, and the training in them is a stand-in: `launched/sitecustomize.py`.
"""

import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mpt.isolation import at_work

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = Path(__file__).with_name("launched")
CONTROL_C = b"\x03"


def needs(plugin, extra):
    missing = importlib.util.find_spec(f"hydra_plugins.{plugin}") is None
    return pytest.mark.skipif(missing, reason=f"the extra {extra} is not installed")


class Sweep:
    """`mpt train -m hydra/launcher=LAUNCHER ...` as a process, in a folder of its own."""

    def __init__(self, folder, launcher, *words, seconds=0.5, trains=False, **environment):
        paths = [str(ROOT)] if trains else [str(LAUNCHED), str(ROOT)]
        self.folder = folder / "sweep"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MPT_")},
            "PYTHONPATH": os.pathsep.join(paths),
            "SECONDS_OF_TRAINING": str(seconds),
            **environment,
        }
        overrides = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={self.folder}", *words]
        self.command = [sys.executable, "-m", "mpt", "train", "-m", *overrides]
        self.cwd = folder

    def end(self):
        """Run it to its end."""
        done = subprocess.run(
            self.command,
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        return self

    def end_on_a_terminal(self, *, press, once):
        """Run it as a terminal's foreground job, and press `press` when `once()` holds."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.cwd)
            os.execvpe(self.command[0], self.command, self.environment)
        output, pressed, deadline = b"", False, time.time() + 120
        os.set_blocking(terminal, False)
        while time.time() < deadline:
            if not pressed and once():
                os.write(terminal, press)
                pressed = True
            try:
                output += os.read(terminal, 4096) or b""
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # the terminal is closed: it has ended
                break
        else:
            os.kill(pid, signal.SIGKILL)
        self.code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.out = self.err = output.decode(errors="replace")
        return self

    def end_killed(self, *, once):
        """Kill the sweep's own process when `once()` holds, and wait until no run is at work."""
        process = subprocess.Popen(
            self.command,
            cwd=self.cwd,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.time() + 120
        while not once() and time.time() < deadline:
            time.sleep(0.1)
        process.kill()
        process.wait()
        folders = list(self.folder.glob("[0-9]*"))
        while any(map(at_work, folders)):
            assert time.time() < deadline
            time.sleep(0.1)
        return self

    def at_work(self, count):
        """Whether `count` runs have begun; to be asked later."""
        return lambda: len(list(self.folder.glob("*/.hydra/config.yaml"))) == count

    def statuses(self):
        content = json.loads((self.folder / "sweep.json").read_text())
        return [job["status"] for job in content["jobs"]]

    def report(self, job):
        return json.loads((self.folder / str(job) / "report.json").read_text())

    def reports(self):
        return [self.report(file.parent.name) for file in self.folder.glob("[0-9]*/report.json")]


def is_as_it_should_be(sweep):
    """What holds with every launcher for a sweep of name=good,diverges,killed,other."""
    assert sweep.statuses() == ["completed", "diverged", "killed", "completed"], sweep.err
    assert sweep.code == 1
    assert [sweep.report(job)["exit_code"] for job in range(4)] == [0, 3, 137, 0]
    assert sweep.report(0)["folder"] == str(sweep.cwd)
    lines = sweep.out.splitlines()
    assert lines[-1] == f"sweep: {sweep.folder}"
    assert [line.split()[2] for line in lines[-5:-1]] == sweep.statuses()
    assert "\x1b" not in sweep.out
    assert (sweep.folder / "0/.hydra/config.yaml").exists()
    return True


JOBS = "name=good,diverges,killed,other"


@pytest.fixture(scope="module")
def joblib_sweep(tmp_path_factory):
    return Sweep(
        tmp_path_factory.mktemp("joblib"),
        "joblib",
        "hydra.launcher.n_jobs=4",
        JOBS,
        seconds=1.5,
        CUDA_VISIBLE_DEVICES="0,1",
        TMPDIR=str(tmp_path_factory.mktemp("locks")),
    ).end()


@needs("hydra_joblib_launcher", "joblib")
class TestJoblib:
    def test_outcomes(self, joblib_sweep):
        assert is_as_it_should_be(joblib_sweep)

    def test_each_line_says_whose_it_is(self, joblib_sweep):
        assert {"[0] ended good", "[1] ended diverges", "[3] ended other"} <= set(
            joblib_sweep.out.splitlines()
        )

    def test_jobs_at_once_have_a_gpu_each(self, joblib_sweep):
        used = [
            (report["gpu"], *report["span"]) for report in joblib_sweep.reports() if "gpu" in report
        ]
        assert {gpu for gpu, *_ in used} == {"0", "1"}
        for gpu in ("0", "1"):
            spans = sorted((start, end) for found, start, end in used if found == gpu)
            ends = [end for _, end in spans[:-1]]
            assert all(start >= end for (start, _), end in zip(spans[1:], ends, strict=True))

    @pytest.mark.slow
    def test_control_c_lets_the_runs_save_and_resume_completes_the_sweep(self, tmp_path):
        words = ("hydra.launcher.n_jobs=2", "name=a,b,c")
        sweep = Sweep(tmp_path, "joblib", *words, seconds=60)

        sweep.end_on_a_terminal(press=CONTROL_C, once=sweep.at_work(2))
        assert sweep.code == 75
        assert "Traceback" not in sweep.err
        assert sweep.statuses() == ["interrupted", "interrupted", "not_run"]
        assert [sweep.report(job)["told"] for job in (0, 1)] == [["SIGINT"]] * 2
        assert not (sweep.folder / "2").exists()

        resumed = Sweep(tmp_path, "joblib", *words)
        resumed.command = [word.replace("hydra.sweep.dir=", "resume=") for word in resumed.command]
        assert resumed.end().code == 0, resumed.err
        assert resumed.statuses() == ["completed"] * 3

    @pytest.mark.slow
    def test_one_job_at_a_time(self, tmp_path):
        # joblib starts no worker then.
        words = ("hydra.launcher.n_jobs=1", "name=a,b")
        sweep = Sweep(tmp_path, "joblib", *words, seconds=60)
        sweep.end_on_a_terminal(press=CONTROL_C, once=sweep.at_work(1))
        assert sweep.code == 75
        assert sweep.statuses() == ["interrupted", "not_run"]
        assert sweep.report(0)["told"] == ["SIGINT"]

    @pytest.mark.slow
    def test_a_killed_sweep_leaves_no_run(self, tmp_path):
        words = ("hydra.launcher.n_jobs=2", "name=a,b,c")
        sweep = Sweep(tmp_path, "joblib", *words, seconds=60)
        sweep.end_killed(once=sweep.at_work(2))
        assert [sweep.report(job)["told"] for job in (0, 1)] == [["SIGTERM"]] * 2
        assert not (sweep.folder / "2/report.json").exists()

    @pytest.mark.slow
    def test_control_c_before_the_jobs_begin(self, tmp_path):
        sweep = Sweep(tmp_path, "joblib", "hydra.launcher.n_jobs=2", "name=a,b,c", seconds=60)
        planned = sweep.folder / ".jobs/plan.json"
        sweep.end_on_a_terminal(press=CONTROL_C, once=planned.exists)
        assert sweep.code == 130
        assert "Traceback" not in sweep.err

    @pytest.mark.slow
    def test_a_lost_worker_ends_the_sweep_with_its_table(self, tmp_path):
        words = ("hydra.launcher.n_jobs=2", "name=good,loses_its_worker,other")
        sweep = Sweep(tmp_path, "joblib", *words, seconds=20).end()
        assert sweep.code == 1
        # joblib kills the other worker, and its run with it.
        assert sweep.statuses() == ["killed", "interrupted", "not_run"]
        assert sweep.report(1)["told"] == ["SIGTERM"]  # it saved what it had
        assert sweep.err.count("error: the launcher failed: joblib") == 1
        assert f"resume={sweep.folder}" in sweep.err

    @pytest.mark.slow
    def test_real_jobs_at_once_say_so(self, tmp_path):
        words = ("model=mlp", "dataset=synthetic", "dataset.examples=256", "trainer.steps=30")
        sweep = Sweep(
            tmp_path, "joblib", "hydra.launcher.n_jobs=2", "seed=0,1", *words, trains=True
        ).end()
        assert sweep.code == 0, sweep.err
        # Others may be at work on this machine, too.
        assert min(report["device"]["concurrent_jobs"] for report in sweep.reports()) >= 2
        assert [sweep.report(seed)["config"]["seed"] for seed in (0, 1)] == [0, 1]


@needs("hydra_submitit_launcher", "submitit")
@pytest.mark.slow
class TestSubmitit:
    def test_on_this_machine(self, tmp_path):
        gpus = "hydra.launcher.gpus_per_node=2"
        sweep = Sweep(tmp_path, "submitit_local", gpus, JOBS, TMPDIR=str(tmp_path)).end()
        assert is_as_it_should_be(sweep)
        output = re.search(r"^the jobs' output: (.*)$", sweep.err, flags=re.MULTILINE)[1]
        files = Path("/").glob(output.lstrip("/"))
        assert "[0] ended good" in "".join(file.read_text() for file in files)
        assert {sweep.report(job)["gpu"] for job in (0, 1, 3)} == {"0", "1"}

    def test_control_c_lets_the_runs_save(self, tmp_path):
        sweep = Sweep(tmp_path, "submitit_local", "name=a,b", seconds=60)

        sweep.end_on_a_terminal(press=CONTROL_C, once=sweep.at_work(2))
        assert sweep.code == 75
        assert "Traceback" not in sweep.err
        assert sweep.statuses() == ["interrupted"] * 2
        assert [report["told"] for report in sweep.reports()] == [["SIGINT"]] * 2

    def test_a_killed_sweep_leaves_no_run(self, tmp_path):
        sweep = Sweep(tmp_path, "submitit_local", "name=a,b", seconds=60)
        sweep.end_killed(once=sweep.at_work(2))
        assert [report["told"] for report in sweep.reports()] == [["SIGTERM"]] * 2

    def test_a_lost_job_leaves_the_others(self, tmp_path):
        sweep = Sweep(tmp_path, "submitit_local", "name=loses_its_worker,good", seconds=8).end()
        assert sweep.code == 75  # of the one that failed
        assert sweep.statuses() == ["interrupted", "completed"]
        assert "lost a job" in sweep.err

    @pytest.fixture
    def slurm(self, tmp_path):
        """Environment variables with which a stand-in for Slurm's commands is found."""
        commands, state = tmp_path / "bin", tmp_path / "slurm"
        commands.mkdir()
        state.mkdir()
        for name in ("sbatch", "srun", "sacct", "scontrol"):
            script = f'#!/bin/sh\nexec "{sys.executable}" "{LAUNCHED / "slurm.py"}" {name} "$@"\n'
            (commands / name).write_text(script)
            (commands / name).chmod(0o755)
        path = os.pathsep.join([str(commands), os.environ["PATH"]])
        yield {"PATH": path, "SLURM_STAND_IN": str(state)}
        for file in state.glob("*.pid"):
            if Path(f"/proc/{file.read_text()}").exists():
                os.killpg(int(file.read_text()), signal.SIGKILL)

    def test_on_a_cluster(self, tmp_path, slurm):
        words = ("hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1", JOBS)
        sweep = Sweep(tmp_path, "submitit_slurm", *words, **slurm).end()
        assert is_as_it_should_be(sweep)
        script = (tmp_path / "slurm/script").read_text()
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, flags=re.MULTILINE))
        assert options["partition"] == "gpu"
        assert options["gpus-per-node"] == "1"
        assert options["array"] == "0-3%4"

    def test_a_job_that_makes_room_runs_again(self, tmp_path, slurm):
        sweep = Sweep(tmp_path, "submitit_slurm", "name=makes_room,good", **slurm).end()
        assert sweep.statuses() == ["completed", "completed"], sweep.err
        (first,) = sweep.folder.glob(".jobs/replaced/0-*/report.json")
        assert json.loads(first.read_text())["told"] == ["SIGINT"]


@pytest.fixture(scope="module")
def cluster():
    """The address of a Ray cluster of this machine alone."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    options = ["--num-cpus=2", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}"]
    local = ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    environment = {**os.environ, **settings}
    process = subprocess.Popen(
        [*command, *options, *local],
        env={**environment, "PYTHONPATH": os.pathsep.join([str(LAUNCHED), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = ""
    for line in process.stdout:
        said += line
        if "ray start --address=" in line:
            break
    address = re.search(r"--address='?([\d.:]+)", said)
    assert address, said
    yield {**settings, "RAY_ADDRESS": address[1]}
    process.terminate()
    process.communicate(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@needs("hydra_ray_launcher", "ray")
@pytest.mark.slow
class TestRay:
    def test_on_a_cluster(self, tmp_path, cluster):
        sweep = Sweep(tmp_path, "ray", JOBS, **cluster).end()
        assert is_as_it_should_be(sweep)
        assert any(line.endswith("[0] ended good") for line in sweep.out.splitlines())

    def test_control_c_lets_the_runs_save(self, tmp_path, cluster):
        sweep = Sweep(tmp_path, "ray", "name=long_a,long_b,long_c", **cluster)
        sweep.end_on_a_terminal(press=CONTROL_C, once=sweep.at_work(2))
        assert sweep.code == 75
        assert "Traceback" not in sweep.err
        assert sweep.statuses() == ["interrupted", "interrupted", "not_run"]
        assert [report["told"] for report in sweep.reports()] == [["SIGINT"]] * 2

    def test_a_killed_sweep_leaves_no_run(self, tmp_path, cluster):
        sweep = Sweep(tmp_path, "ray", "name=long_a,long_b", **cluster)
        sweep.end_killed(once=sweep.at_work(2))
        assert sweep.reports() == []  # Ray kills what its workers have started

    def test_a_job_whose_worker_is_lost_runs_again(self, tmp_path, cluster):
        sweep = Sweep(tmp_path, "ray", "name=loses_its_worker,good", **cluster).end()
        assert sweep.statuses() == ["completed", "completed"], sweep.err
        (first,) = sweep.folder.glob(".jobs/replaced/0-*/report.json")
        assert json.loads(first.read_text())["told"] == ["SIGTERM"]

    def test_a_launcher_that_cannot_begin(self, tmp_path):
        words = ("+hydra.launcher.ray.init.no_such_option=1", "name=a,b")
        sweep = Sweep(tmp_path, "ray", *words, RAY_AUTH_MODE="disabled").end()
        assert sweep.code == 1
        assert "error: the launcher failed: ray: " in sweep.err
        assert "Traceback" not in sweep.err
        assert not sweep.folder.exists()
