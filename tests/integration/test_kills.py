"""Children killed at any moment: no other run's folder suffers, and each run has a report."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mpt import report
from mpt.run_folder import read_metrics

ROOT = Path(__file__).resolve().parents[2]
JOBS = 8

# A child without TensorFlow, which writes its folder as a run does, over half a second.
CHILD = """
import sys, time, types
runner = types.ModuleType("mpt.runner")
def run(config, run_dir, *, command, composed, **_):
    import dataclasses
    from mpt.report import RunReport
    from mpt.run_folder import RunFolder
    with RunFolder.create(run_dir) as folder:
        folder.write_hydra(**composed)
        folder.write_json("precision.json", {"table": [{"path": "x" * 1000}] * 100})
        for step in range(1, 51):
            folder.append_metrics({"step": step, "train/loss": 1 / step})
            time.sleep(0.01)
        result = RunReport(run_dir.name, "x", command, "", dataclasses.asdict(config))
        result.status, result.exit_code = "completed", 0
        result.training.steps = 50
        folder.write_json("report.json", result.to_json())
    return 0
runner.run = run
sys.modules["mpt.runner"] = runner
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
"""


def start(folder, *words, child=CHILD):
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(child)
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    return subprocess.Popen(
        [sys.executable, "-m", "mpt", "train", "-q", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children_of(process):
    """The processes of runs below the sweep's, whatever the launcher put in between."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
        return [each for each in below if "mpt.isolation" in each.cmdline()]
    except psutil.NoSuchProcess:
        return []


def kill_at_random(process, share, seed):
    """SIGKILL to about `share` of the children, each at a moment of its own; how many."""
    dice, seen, killed = random.Random(seed), {}, 0
    while process.poll() is None:
        for child in children_of(process):
            doomed = dice.random() < share
            when = time.monotonic() + (dice.uniform(0, 1.2) if doomed else float("inf"))
            if time.monotonic() >= seen.setdefault(child.pid, when):
                seen[child.pid] = float("inf")
                try:
                    child.kill()
                    killed += 1
                except psutil.NoSuchProcess:
                    pass
        time.sleep(0.02)
    return killed


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.slow
def test_kills_at_random_moments_corrupt_no_run(tmp_path, launcher):
    words = ["-m", f"seed=range({JOBS})"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra is absent")
        words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    process = start(tmp_path, *words)
    try:
        killed = kill_at_random(process, share=0.6, seed=launcher)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (file,) = tmp_path.glob("sweeps/*/*/sweep.json")
    jobs = json.loads(file.read_text())["jobs"]
    assert len(jobs) == JOBS
    ended = [job["status"] for job in jobs]
    assert killed > 0, "nothing was killed: the test tests nothing"
    assert set(ended) <= {"completed", "killed"}
    assert 0 < ended.count("killed") <= killed  # a kill may come after the run's last act
    for job in jobs:
        folder = file.parent / job["folder"]
        found = report.read(folder)
        assert found.status == job["status"]
        assert found.config["seed"] == job["index"]
        if (folder / "metrics.jsonl").exists():
            steps = [row["step"] for row in read_metrics(folder)]
            assert steps == list(range(1, len(steps) + 1))
        if found.status == "completed":
            assert len(steps) == found.training.steps == 50
            json.loads((folder / "precision.json").read_text())
    assert process.returncode == 1
    assert output.rstrip().splitlines()[-1] == f"sweep: {file.parent}"


SLEEPER = CHILD.replace("time.sleep(0.01)", "time.sleep(0.2)")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_a_killed_sweep_leaves_no_orphan(tmp_path, launcher):
    words = ["-m", "seed=0,1"]
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra is absent")
        words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start(tmp_path, *words, child=SLEEPER)
    try:
        deadline = time.monotonic() + 40
        expected = 2 if launcher == "joblib" else 1
        while len(list(tmp_path.glob("sweeps/*/*/*/metrics.jsonl"))) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(children_of(process)) == expected
        below = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=20)
    for each in alive:
        each.kill()
    process.communicate()
    assert alive == [], "they outlive the sweep"


# Trains until a signal asks it to end.
ASKED = """
import sys, time, types
runner = types.ModuleType("mpt.runner")
def run(config, run_dir, *, command, composed, **_):
    from mpt.interrupts import Interrupts
    from mpt.run_folder import RunFolder
    with RunFolder.create(run_dir) as folder, Interrupts() as asked:
        folder.write_hydra(**composed)
        for _ in range(200):
            if asked:
                return 75
            time.sleep(0.05)
    return 0
runner.run = run
sys.modules["mpt.runner"] = runner
sys.modules["tensorflow"] = types.ModuleType("tensorflow")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_batch_systems_signal_reaches_a_run_in_a_child(tmp_path, number):
    """A limit of memory puts the run into a process of its own."""
    words = ("trainer=smoke", "device.memory_limit_mb=4000", f"run_dir={tmp_path / 'r'}")
    process = start(tmp_path, *words, child=ASKED)
    end = time.monotonic() + 60
    while not (tmp_path / "r" / ".hydra" / "config.yaml").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out


@pytest.mark.slow
def test_a_run_that_ended_unnoted_is_not_run_again(tmp_path):
    """The sweep's process was killed between the run's report and its own note of it."""
    words = ["-m", "trainer=smoke", "seed=0,1"]
    sweep = tmp_path / "s"
    first = start(tmp_path, *words, f"hydra.sweep.dir={sweep}")
    out, _ = first.communicate(timeout=120)
    assert first.returncode == 0, out
    note = sweep / ".jobs" / "0.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"status": "running"}))
    before = (sweep / "0" / "report.json").read_bytes()
    shutil.rmtree(tmp_path / "site")
    start(tmp_path, *words, f"resume={sweep}").communicate(timeout=120)
    assert (sweep / "0" / "report.json").read_bytes() == before
    assert not (sweep / ".jobs" / "replaced").exists()
