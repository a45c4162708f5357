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

from mpt import interrupts
from mpt.interrupts import ASKING, Endings, Interrupts

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
    time.sleep(0.5)  # Python takes two signals of one kind for one until it has handled the first
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


ENDINGS = """
    import hashlib, signal, sys, time
    from mpt import interrupts, leaving
    from mpt.interrupts import Endings, Interrupts

    interrupts.GRACE_SECONDS = {grace}

    def away():
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)

    def raises(*_):
        raise KeyboardInterrupt

    for number in {handled}:
        signal.signal(number, raises)
    with Endings() as endings, leaving.tidied(lambda: print("tidied", flush=True)):
        print("ready", flush=True)
        try:
            {body}
        except KeyboardInterrupt:
            print("out", flush=True)
            sys.exit(endings.code)
"""


def before_training(body="away()", grace=0.2, handled=ASKING):
    """A process in which signals end it; it is in `body`."""
    handled = [int(number) for number in handled]
    code = textwrap.dedent(ENDINGS).format(body=body, grace=grace, handled=handled)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return process


def end_of(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


@pytest.mark.parametrize("number", ASKING)
def test_before_training_what_does_not_come_back_is_ended(number):
    process = before_training()
    process.send_signal(number)
    assert end_of(process) == (128 + number, "tidied\n", "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_training_what_comes_back_ends_by_itself(number):
    process = before_training("time.sleep(20)", grace=20)
    process.send_signal(number)
    assert end_of(process) == (128 + number, "out\ntidied\n", "")


def test_before_training_a_second_control_c_ends_without_delay():
    process = before_training(grace=20)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, "tidied\n", "interrupted\n")
    assert time.monotonic() - start < 3


def test_before_training_what_the_system_handles_is_left_to_it():
    process = before_training(handled=[signal.SIGINT])
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (-signal.SIGTERM, "", "")


def test_the_end_waits_for_no_terminal_that_takes_nothing_more():
    body = "leaving.hooks.append(lambda: time.sleep(60)) or away()"
    process = before_training(body)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert end_of(process)[:2] == (130, "tidied\n")
    assert time.monotonic() - start < 5


def test_a_signal_in_training_is_training_s(monkeypatch):
    monkeypatch.setattr(interrupts, "GRACE_SECONDS", 0.1)
    acted = []
    with Endings() as endings, Interrupts(lambda: acted.append(1)) as interrupted:
        send(signal.SIGINT)
        wait_for(lambda: interrupted and acted)
        time.sleep(0.3)  # it would have ended
    assert not endings


def test_training_does_not_begin_after_a_signal_that_somebody_s_code_took_for_an_error():
    with Endings() as endings:
        try:
            send(signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            pass
        with pytest.raises(KeyboardInterrupt), Interrupts():
            pytest.fail("it began")
    assert endings.code == 130
    with Interrupts():
        pass


def test_a_signal_while_the_handlers_change_leaves_none_of_them(monkeypatch):
    before = {number: signal.getsignal(number) for number in ASKING}
    descriptors = set(os.listdir("/proc/self/fd"))
    change = signal.signal

    def disturbed(number, handler):
        if number == signal.SIGTERM:
            raise KeyboardInterrupt
        return change(number, handler)

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", disturbed)
        patch.setattr(Interrupts, "_put_back", lambda self: change(2, self._previous[2]))
        with pytest.raises(KeyboardInterrupt), Interrupts():
            pytest.fail("it began")
    assert {number: signal.getsignal(number) for number in ASKING} == before
    assert signal.set_wakeup_fd(-1) == -1
    assert set(os.listdir("/proc/self/fd")) == descriptors


def test_other_threads_have_no_signals():
    def within():
        with Endings() as endings:
            codes.append(endings.code)

    codes = []
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert codes == [130]
