"""Signals within `Interrupts`, in a process of its own where one may end it."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mpt.interrupts import ASKING, Interrupts

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3_000_000  # of a hash: about a second


def send(number):
    os.kill(os.getpid(), number)


def wait_for(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.mark.parametrize("number", ASKING)
def test_each_asks_once_and_the_process_goes_on(number):
    acted = []
    with Interrupts(lambda: acted.append(number)) as interrupted:
        assert not interrupted
        send(number)
        wait_for(lambda: interrupted and acted)
        if number != signal.SIGINT:  # a second one would end it
            send(number)
            wait_for(lambda: len(interrupted.received) == 2)
        time.sleep(0.05)
    assert interrupted.received[0] == number
    assert acted == [number]


def test_others_act_too_and_who_comes_late_at_once():
    acted = []
    with Interrupts(lambda: acted.append("first")) as interrupted:
        interrupted.also(lambda: acted.append("second"))
        assert acted == []
        send(signal.SIGTERM)
        wait_for(lambda: len(acted) == 2)
        interrupted.also(lambda: acted.append("late"))
    assert acted == ["first", "second", "late"]


def test_signals_within_are_no_business_of_what_follows():
    before = {number: signal.getsignal(number) for number in ASKING}
    descriptors = set(os.listdir("/proc/self/fd"))
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in ASKING} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert "interrupts" not in [thread.name for thread in threading.enumerate()]


def test_it_acts_while_the_interpreter_is_away():
    """As it is during a device call: no handler of Python's runs then."""
    acted_after = []
    start = time.monotonic()
    with Interrupts(lambda: acted_after.append(time.monotonic() - start)) as interrupted:
        threading.Timer(0.2, lambda: send(signal.SIGTERM)).start()
        # A C function that neither holds the interpreter's lock nor comes back for a signal.
        hashlib.pbkdf2_hmac("sha256", b"", b"", ROUNDS)
        back = time.monotonic() - start
        assert interrupted.received == [signal.SIGTERM]
    assert acted_after[0] < back - 0.2, "it waited for the interpreter"


def test_a_second_control_c_raises_where_python_is_at_work():
    interrupted = Interrupts()

    def press_twice():
        with interrupted:
            send(signal.SIGINT)
            wait_for(lambda: interrupted)
            send(signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert interrupted.received == [signal.SIGINT] * 2


def test_a_control_c_handed_on_by_a_parent_that_a_batch_system_told_too_ends_nothing():
    """A batch system signals every process of a job, and a parent hands its own signal on."""
    with Interrupts() as interrupted:
        send(signal.SIGTERM)
        wait_for(lambda: interrupted)
        send(signal.SIGINT)
        wait_for(lambda: len(interrupted.received) == 2)
        time.sleep(0.05)


CHILD = """
    import hashlib, time
    from mpt.interrupts import Interrupts

    with Interrupts(lambda: print("asked", flush=True)):
        print("ready", flush=True)
        {body}
    print("ended", flush=True)
"""


def child(body):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD.format(body=body))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_control_c_ends_what_does_not_come_back():
    process = child(f"hashlib.pbkdf2_hmac('sha256', b'', b'', {60 * ROUNDS})")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 4
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted\n")


def test_a_second_control_c_lets_what_comes_back_soon_tidy_up():
    body = "\n        ".join(
        [
            "try:",
            "    while True: time.sleep(0.05)",
            "except KeyboardInterrupt:",
            "    print('tidied', flush=True)",
        ]
    )
    process = child(body)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "tidied\nended\n", "")


def test_many_signals_at_once_do_not_block():
    process = child(f"hashlib.pbkdf2_hmac('sha256', b'', b'', {2 * ROUNDS})")
    for _ in range(2000):
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "asked\nended\n")
