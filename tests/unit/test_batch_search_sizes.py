"""The search for the largest batch, held against every answer that there can be."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from mpt import batch_search, errors, isolation, report
from mpt.batch_search import Attempt, SearchFailed, judge, search, settle, with_margin
from mpt.isolation import Job

CONFIG = {
    "batch_size": "max",
    "run_dir": "runs/x",
    "device": {"memory_limit_mb": None},
    "telemetry": {"tensorboard": True, "peak": True, "gradients": True},
    "trainer": {"smoke_checks": True, "log_every": 50},
}


def oracle(limit, examples):
    """An attempt that fits up to `limit`, and the sizes that were tried."""
    tried = []

    def attempt(size):
        assert 1 <= size <= max(examples, batch_search.START)
        assert size not in tried, "a size is tried once"
        tried.append(size)
        return Attempt(size <= limit, examples=examples)

    return attempt, tried


@pytest.mark.parametrize("examples", [8, 9, 20, 100, 1437, 60000])
def test_every_limit_is_found(examples):
    limits = {*range(300), *range(300, examples, 97), examples - 1, examples, examples + 1}
    for limit in limits:
        attempt, tried = oracle(limit, examples)
        low, high = search(attempt)
        assert low <= limit
        if limit >= examples:
            assert (low, high) == (examples, None)
            continue
        assert low <= limit < high
        assert high - low <= (1 if low < 8 else max(8, 0.05 * low))
        assert low < 8 or low % 8 == 0
        assert len(tried) <= 22


def test_the_size_doubles_and_then_the_gap_is_halved():
    attempt, tried = oracle(740, 60000)
    assert search(attempt) == (736, 768)
    assert tried == [8, 16, 32, 64, 128, 256, 512, 1024, 768, 640, 704, 736]


def test_the_margin_is_a_tenth_and_leaves_a_multiple_of_8():
    for size in range(1, 5000):
        less = with_margin(size)
        assert less >= 1
        assert less <= max(1, 0.9 * size)
        assert less > 0.9 * size - (8 if less >= 64 else 1)
        assert less < 64 or less % 8 == 0


def leave_report(folder, *, status="completed", message=None, examples=1000, device="cpu"):
    made = report.RunReport("x", "x", [], "2026-01-01T00:00:00Z", {}, status=status)
    made.data.train_examples = examples
    made.device.kind = device
    made.memory.host_rss_peak_bytes = 2**30
    made.memory.device_peak_bytes = 2**29 if device == "gpu" else None
    if message is not None:
        made.reason = report.Reason("error", 1, message)
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(made.to_json()))


@pytest.fixture
def fake_spawn(monkeypatch):
    """Replaces the child process by one that runs out of memory above `limit` rows."""
    calls = []

    def install(
        limit, *, examples=1000, device="cpu", fail=(errors.OUT_OF_MEMORY, "error: Out of memory")
    ):
        def spawn(job, *, output, environment=None, stopped=None):
            calls.append((job, environment, stopped))
            if job.options["batch_size"] > limit:
                output.write(fail[1])
                return fail[0]
            leave_report(Path(job.run_dir), examples=examples, device=device)
            return 0

        monkeypatch.setattr(batch_search, "spawn", spawn)
        return calls

    return install


def test_the_number_travels_in_the_options_and_the_configuration_stays(fake_spawn, capsys):
    calls = fake_spawn(100)
    job = Job(config=CONFIG, run_dir="runs/x", options={"kept": 1})
    before = set(Path(tempfile.gettempdir()).glob("mpt-batch-*"))
    done = settle(job, environment={"CUDA_VISIBLE_DEVICES": "1"}, stopped=bool)
    assert done.config == CONFIG
    assert job.options == {"kept": 1}
    assert done.options["kept"] == 1
    assert done.options["batch_size"] == 80
    assert "less 10%: 96 fits, 104 does not" in done.options["batch_size_reason"]
    for child, environment, stopped in calls:
        assert child.task == "train"
        assert child.config["batch_size"] == "max"
        assert child.config["telemetry"] == {"tensorboard": False, "peak": False, "gradients": True}
        assert child.config["trainer"] == {"smoke_checks": False, "log_every": 50}
        assert child.options["steps"] == batch_search.STEPS
        assert child.options["cpu_limit_mb"] == calls[0][0].options["cpu_limit_mb"] > 0
        assert (environment, stopped) == ({"CUDA_VISIBLE_DEVICES": "1"}, bool)
        assert child.run_dir == child.config["run_dir"] != "runs/x"
    assert set(Path(tempfile.gettempdir()).glob("mpt-batch-*")) == before
    said = capsys.readouterr().err
    assert "96 fits, 1024 MiB" in said
    assert "104 does not fit" in said


def test_a_quiet_search_says_nothing_and_all_examples_need_no_margin(fake_spawn, capsys):
    fake_spawn(10**6, examples=50)
    done = settle(Job(config=CONFIG, run_dir="runs/x", verbosity=-1))
    assert done.options["batch_size"] == 50
    assert done.options["batch_size_reason"].startswith("all 50 training examples fit")
    assert capsys.readouterr() == ("", "")


def test_a_number_needs_no_search(fake_spawn):
    calls = fake_spawn(0)
    job = Job(config={**CONFIG, "batch_size": 64}, run_dir="runs/x")
    assert settle(job) is job
    assert calls == []


def test_a_limit_of_the_users_own_is_the_one_that_holds(fake_spawn):
    calls = fake_spawn(100)
    config = {**CONFIG, "device": {"memory_limit_mb": 123}}
    done = settle(Job(config=config, run_dir="runs/x"))
    for child, _, _ in calls:
        assert child.config["device"] == {"memory_limit_mb": 123}
        assert child.options["cpu_limit_mb"] is None
    assert done.options["batch_size_reason"].endswith("in 123 MiB")


def test_a_gpus_batch_has_nothing_to_do_with_the_hosts_memory(fake_spawn, capsys):
    calls = fake_spawn(100, device="gpu")
    done = settle(Job(config=CONFIG, run_dir="runs/x", label="[3] "))
    first, *later = [child.options["cpu_limit_mb"] for child, _, _ in calls]
    assert first is not None  # what it runs on is not known before
    assert set(later) == {None}
    assert "MiB" not in done.options["batch_size_reason"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("[3] batch_size=max: 8 fits, 512 MiB")
    assert {child.label for child, _, _ in calls} == {""}


def test_where_nothing_fits_the_exit_code_is_that_of_memory(fake_spawn):
    calls = fake_spawn(0)
    config = {**CONFIG, "device": {"memory_limit_mb": 10}}
    with pytest.raises(SearchFailed, match=r"Not even a batch of 1 fits.*memory_limit_mb=10") as no:
        settle(Job(config=config, run_dir="runs/x"))
    assert no.value.exit_code == errors.OUT_OF_MEMORY
    assert "Out of memory" in str(no.value)  # what the child said
    assert [child.options["batch_size"] for child, _, _ in calls] == [8, 4, 2, 1]


def test_another_failure_is_told_as_itself(fake_spawn):
    fake_spawn(8, fail=(errors.INVALID, "error: no such metric\n  where:   monitor"))
    with pytest.raises(SearchFailed, match="no such metric") as failed:
        settle(Job(config=CONFIG, run_dir="runs/x"))
    assert failed.value.exit_code == errors.INVALID


def test_an_interrupted_child_ends_the_search(fake_spawn):
    fake_spawn(8, fail=(errors.INTERRUPTED, ""))
    with pytest.raises(KeyboardInterrupt):
        settle(Job(config=CONFIG, run_dir="runs/x"))


@pytest.mark.parametrize(
    ("code", "output", "message", "fits"),
    [
        (0, "", None, True),
        (3, "", None, True),  # NaN has nothing to do with memory
        (4, "", None, False),
        (-signal.SIGKILL, "", None, False),
        (-signal.SIGABRT, "terminate called after throwing 'std::bad_alloc'", None, False),
        (1, "", "InternalError: CUDA_ERROR_OUT_OF_MEMORY", False),
        (1, "CUDA runtime: out of memory", None, False),
        (1, "RESOURCE_EXHAUSTED: no workspace", None, False),
        (1, "XLA failed to allocate 2 GiB", None, False),
        (1, "", "OSError: Cannot allocate memory", False),
        (1, "AbortedError: could not execute a primitive", None, False),
        (1, "", "ValueError: shapes", None),
        (2, "a file that says: out of memory", None, None),
        (-signal.SIGSEGV, "", None, None),
        (0, "", False, None),  # it wrote no report
    ],
)
def test_what_is_taken_for_want_of_memory(tmp_path, code, output, message, fits):
    if message is not False:
        leave_report(tmp_path / "run", message=message)
    if fits is None:
        with pytest.raises(SearchFailed):
            judge(code, output, tmp_path / "run")
    else:
        assert judge(code, output, tmp_path / "run").fits is fits


def test_free_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_search, "_CGROUP", tmp_path)
    machine = batch_search.free_mb()
    assert 0 < machine < psutil.virtual_memory().total / 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert batch_search.free_mb() > machine / 2
    (tmp_path / "memory.max").write_text(str(5 * 2**30))
    (tmp_path / "memory.current").write_text(str(2**30))
    assert batch_search.free_mb() == int(0.9 * 4 * 2**30 - 2**30) // 2**20
    (tmp_path / "memory.current").write_text(str(6 * 2**30))
    assert batch_search.free_mb() == 1


def limited_child(code):
    """Runs `code` in a process that may take 50 MiB more than it holds at the start."""
    start = "from mpt import device; device.limit_process(50)\n"
    return subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_a_process_gets_its_limit_beyond_what_it_holds():
    assert limited_child("bytearray(30 * 2**20)").returncode == 0
    past = limited_child("bytearray(80 * 2**20)")
    assert past.returncode == 1
    assert "MemoryError" in past.stderr


@pytest.mark.parametrize(("limit", "code"), [(100, errors.OUT_OF_MEMORY), (None, -signal.SIGABRT)])
def test_a_crash_under_a_limit_of_memory_is_told_as_out_of_memory(monkeypatch, capfd, limit, code):
    monkeypatch.setattr(isolation, "CHILD", ["-c", "import os; os.abort()"])
    config = {**CONFIG, "device": {"memory_limit_mb": limit}}
    assert isolation.spawn(Job(config=config, run_dir="runs/x")) == code
    assert ("SIGABRT" in capfd.readouterr().err) is (limit is not None)


def test_only_train_searches(mpt, runs):
    for command in ("inspect", "probe", "bisect"):
        done = mpt(command, "batch_size=max")
        assert done.code == errors.INVALID
        assert f"mpt {command} needs a number" in done.err
        assert "batch_size=max" in done.err


def test_train_runs_what_was_found_in_a_process_of_its_own(mpt, monkeypatch):
    from mpt.commands import train

    spawned = []

    def found(job):
        return Job(**{**vars(job), "options": {"batch_size": 24, "batch_size_reason": "why"}})

    monkeypatch.setattr(train, "settle", found)
    monkeypatch.setattr(train, "spawn", lambda job: spawned.append(job) or 0)
    assert mpt("train", "batch_size=max").code == 0
    (job,) = spawned
    assert job.config["batch_size"] == "max"
    assert job.options == {"batch_size": 24, "batch_size_reason": "why"}

    def nothing(job):
        raise SearchFailed("Not even a batch of 1 fits.", errors.OUT_OF_MEMORY)

    monkeypatch.setattr(train, "settle", nothing)
    done = mpt("train", "batch_size=max")
    assert done.code == errors.OUT_OF_MEMORY
    assert "error: Not even a batch of 1 fits." in done.err

    def interrupted(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "settle", interrupted)
    done = mpt("train", "batch_size=max")
    assert (done.code, done.err) == (errors.INTERRUPTED, "interrupted\n")
    assert len(spawned) == 1
