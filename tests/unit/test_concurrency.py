"""Locks tell who is at work: runs at once on the machine, and a GPU for each."""

import subprocess
import sys
import time

import pytest

from mpt import concurrency
from mpt.concurrency import Presence, own_gpu, visible_gpus

HOLD = """
import sys, time
from mpt.concurrency import Presence, own_gpu
{code}
"""


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """A folder of locks of this test's own, for its processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def process():
    """`process(code)` runs code in another process until the test ends, once it has printed."""
    started = []

    def start(code):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(code=code)], stdout=subprocess.PIPE, text=True
        )
        started.append(child)
        child.line = child.stdout.readline().strip()
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_run_alone_counts_itself():
    with Presence() as presence:
        assert presence.count() == 1
    assert presence.most == 1


def test_runs_at_the_same_time_are_counted(process):
    code = "p = Presence().__enter__(); print('in', flush=True); time.sleep(60)"
    first = process(code)
    with Presence() as presence:
        assert presence.count() == 2
        process(code)
        assert presence.count() == 3
        first.kill()
        first.wait()
        assert presence.count() == 2
    assert presence.most == 3


def test_a_run_that_enters_while_another_counts_stays(process, monkeypatch):
    others = []

    def counted_first(*arguments):
        if not others:
            others.append(process("print(Presence().count(), flush=True)").line)
        return lock(*arguments)

    lock = concurrency.fcntl.flock
    monkeypatch.setattr(concurrency.fcntl, "flock", counted_first)
    with Presence():
        assert others == ["1"]
        assert process("print(Presence().count(), flush=True)").line == "2"


def test_one_that_comes_later_is_seen_by_a_later_count(process):
    with Presence() as presence:
        process("p = Presence().__enter__(); print('in', flush=True); time.sleep(60)")
        assert presence.most == 1
        presence.count()
    assert presence.most == 2


def test_killed_runs_leave_nothing_behind(process, tmp_path):
    child = process("p = Presence().__enter__(); print('in', flush=True); time.sleep(60)")
    child.kill()
    child.wait()
    with Presence() as presence:
        assert presence.count() == 1
    assert list(tmp_path.rglob("jobs/*")) == []


GPU = """
with own_gpu() as environment:
    print(environment["CUDA_VISIBLE_DEVICES"], flush=True)
    time.sleep({seconds})
"""


def test_each_concurrent_job_has_a_gpu_of_its_own(process, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert {process(GPU.format(seconds=60)).line for _ in range(2)} == {"0", "1"}


def test_a_third_job_waits_for_a_gpu(process, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5a/1")
    first = process(GPU.format(seconds=1.5))
    process(GPU.format(seconds=60))
    start = time.monotonic()
    third = process(GPU.format(seconds=60))
    assert third.line == first.line
    assert time.monotonic() - start > 0.5


def test_waiting_for_a_gpu_can_be_stopped(process, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for _ in range(2):
        process(GPU.format(seconds=60))
    answers = iter([False, True])
    with own_gpu(lambda: next(answers)) as environment:
        assert environment == {}


@pytest.mark.parametrize("named", ["", "-1", "3"])
def test_with_fewer_than_two_gpus_nothing_is_set(named, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with own_gpu() as environment:
        assert environment == {}


def test_visible_gpus_are_those_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f,")
    assert visible_gpus() == ["2", "GPU-8f"]


def test_without_the_variable_the_driver_is_asked(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = []
    library = type(sys)("pynvml")
    library.nvmlInit = lambda: None
    library.nvmlShutdown = lambda: asked.append("shutdown")
    library.nvmlDeviceGetCount = lambda: 3
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert visible_gpus() == ["0", "1", "2"]
    assert asked == ["shutdown"]


def test_another_user_s_folder_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert concurrency._folder("jobs") is None
