"""Workers that a user's generator or callback forks while a run is at work: the run's signals and
its lock are none of theirs.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mpt.errors import ConfigurationError
from mpt.interrupts import Interrupts
from mpt.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

PARENT = """
    import multiprocessing, os, signal, sys, time
    from mpt import interrupts
    from mpt.interrupts import Endings, Interrupts
    from mpt.run_folder import RunFolder

    interrupts.GRACE_SECONDS = 0.3

    def work():
        print("worker", os.getpid(), flush=True)
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            os._exit(7)

    def forked(target=work):
        process = multiprocessing.get_context("fork").Process(target=target, daemon=True)
        process.start()
        time.sleep(0.3)
        return process
"""


def run(body):
    """Standard output of `body`, whose process must end well and soon."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PARENT) + textwrap.dedent(body)],
        capture_output=True,
        text=True,
        timeout=20,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [line for line in process.stdout.splitlines() if not line.startswith("worker")]


def test_one_control_c_for_all_is_one_for_the_run():
    body = """
        with Interrupts(lambda: print("asked", flush=True)) as interrupted:
            workers = [forked(), forked()]
            os.killpg(0, signal.SIGINT)  # what a terminal does
            time.sleep(1)
            print([int(number) for number in interrupted.received], flush=True)
        for worker in workers:
            worker.join(5)
        print([worker.exitcode for worker in workers])
    """
    assert run(body) == ["asked", "[2]", "[7, 7]"]


def test_a_worker_that_is_told_to_end_ends_and_the_run_goes_on():
    body = """
        with Interrupts(lambda: print("asked", flush=True)) as interrupted:
            worker = forked()
            worker.terminate()
            worker.join(5)
            print(worker.exitcode, bool(interrupted))
    """
    assert run(body) == ["-15 False"]


def test_a_signal_in_the_midst_of_a_fork_is_its_process_own():
    """The handlers of the parent are still there when a child begins."""
    body = """
        interrupted = Interrupts(lambda: print("asked", flush=True))
        children = []
        with interrupted:
            for _ in range(30):
                child = os.fork()
                if child == 0:
                    time.sleep(5)
                    os._exit(0)
                os.kill(child, signal.SIGTERM)
                children.append(child)
            ends = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
            time.sleep(0.1)
            print(ends, bool(interrupted))
    """
    assert run(body) == ["{-15} False"]


def test_a_child_that_leaves_the_with_leaves_the_run_alone():
    body = """
        with Interrupts(lambda: print("asked", flush=True)) as interrupted:
            child = os.fork()
            if child == 0:
                interrupted.__exit__(None, None, None)
                interrupted.also(lambda: None)
                os._exit(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            print(bool(interrupted))
    """
    assert run(body) == ["1", "asked", "True"]


def test_a_signal_to_a_worker_forked_before_training_is_none_to_the_run():
    body = """
        with Endings() as endings:
            worker = forked()
            os.kill(worker.pid, signal.SIGINT)
            worker.join(5)
            time.sleep(0.5)
            print(worker.exitcode, bool(endings))
    """
    assert run(body) == ["7 False"]


def test_the_end_waits_for_no_worker():
    body = """
        with Interrupts():
            worker = forked()
            start = time.monotonic()
        print(time.monotonic() - start < 1, worker.is_alive())
        worker.kill()
    """
    assert run(body) == ["True True"]


def descriptors():
    """Those that are open, but for the one that lists them."""
    found = [int(one) for one in os.listdir("/proc/self/fd")]
    return {one for one in found if os.path.exists(f"/proc/self/fd/{one}")}


def test_the_end_waits_for_nobody_who_holds_the_descriptors():
    """A library may fork without Python's hooks."""
    before = descriptors()
    start = time.monotonic()
    with Interrupts():
        held = [os.dup(one) for one in descriptors() - before]
    for one in held:
        os.close(one)
    assert len(held) == 2
    assert time.monotonic() - start < 1


def test_a_lock_ends_with_the_run_and_not_with_its_workers(tmp_path):
    body = f"""
        folder = RunFolder.create({str(tmp_path)!r})
        forked()
        time.sleep(30)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    worker = int(parent.stdout.readline().split()[1])
    try:
        with pytest.raises(ConfigurationError, match="Another process is training"):
            RunFolder.reopen(tmp_path)
        parent.kill()
        parent.wait()
        os.kill(worker, 0)  # it is alive
        RunFolder.reopen(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        parent.stdout.close()


def test_a_child_that_closes_the_folder_takes_no_lock_away(tmp_path):
    body = f"""
        with RunFolder.create({str(tmp_path)!r}) as folder:
            child = os.fork()
            if child == 0:
                folder.close()
                os._exit(0)
            os.waitpid(child, 0)
            print((folder.path / ".lock").exists())
    """
    assert run(body) == ["True"]
