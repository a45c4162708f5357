"""Waits that are watched: told once, in time, and not where there is no wait."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from mpt.errors import ConfigurationError
from mpt.stall import StallWatch, awaiting, stalled

PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`, with far more patience than a test should need."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_stall_is_told_once_with_its_length() -> None:
    told: list[float] = []
    looked: list[float] = []

    def waiting() -> int:
        looked.append(time.monotonic())
        return 7

    with StallWatch(0.1, waiting, told.append):
        until(lambda: told)
        looks = len(looked)
        until(lambda: len(looked) > looks + 8)  # long enough for it to be told twice more
    assert len(told) == 1
    assert 0.1 <= told[0] < 0.2


def test_another_batch_begins_another_wait_and_another_stall() -> None:
    told: list[int] = []
    batch = 0
    with StallWatch(0.1, lambda: batch, lambda _: told.append(batch)):
        until(lambda: told == [0])
        batch = 1
        until(lambda: told == [0, 1])


def test_a_slow_stream_of_batches_is_no_stall() -> None:
    told: list[float] = []
    looked = 0

    def waiting() -> int:
        nonlocal looked
        looked += 1
        return looked // 3  # each batch is awaited for half the time allowed

    with StallWatch(0.1, waiting, told.append):
        until(lambda: looked > 20)
    assert told == []


def test_nothing_awaited_is_no_stall() -> None:
    told: list[float] = []
    looked = 0

    def waiting() -> None:
        nonlocal looked
        looked += 1

    with StallWatch(0.05, waiting, told.append):
        until(lambda: looked > 10)
    assert told == []


def test_a_process_that_was_stopped_has_not_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked = 0.0, 0
    told: list[float] = []

    def waiting() -> str:
        nonlocal now, looked
        looked += 1
        now += 3600 if looked == 2 else 0.01
        return "batch"

    monkeypatch.setattr("mpt.stall.time", SimpleNamespace(monotonic=lambda: now))
    with StallWatch(0.4, waiting, told.append):
        until(lambda: looked > 5)
    assert told == []


def test_leaving_ends_the_thread_at_once() -> None:
    before = threading.active_count()
    start = time.monotonic()
    with StallWatch(1000, lambda: 1, lambda _: None):
        assert threading.active_count() == before + 1
    assert time.monotonic() - start < 0.5
    assert threading.active_count() == before


def test_a_wait_without_a_limit() -> None:
    with StallWatch(float("inf"), lambda: 1, lambda _: None):
        pass


def test_one_wait_is_told_as_an_error() -> None:
    told: list[ConfigurationError] = []
    with awaiting("the first batch", 0.05, told.append):
        until(lambda: told)
    assert "the first batch has not come in 0.0" in str(told[0])
    assert told[0].where == "dataset.stall_seconds"
    with awaiting("the first batch", 1000, told.append):
        pass
    assert len(told) == 1


def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError), awaiting("the first batch", 1000):
        raise KeyError


def test_giving_up_ends_a_process_whose_main_thread_is_stuck() -> None:
    code = (
        "import threading\n"
        "from mpt.leaving import hooks\n"
        "from mpt.stall import awaiting\n"
        "hooks.extend([lambda: 1 / 0, lambda: print('tidy')])\n"
        "print('begun')\n"
        "with awaiting('the first batch', 0.2):\n"
        "    threading.Lock().acquire(), threading.Semaphore(0).acquire()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stdout == "begun\ntidy\n"
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: the first batch has not come in 0.2")
    assert all(line.startswith("  ") for line in rest)
    assert "dataset.stall_seconds" in done.stderr


def test_the_error_names_the_key_and_what_to_do() -> None:
    text = str(stalled("batch 3", 300.4))
    assert text.startswith("batch 3 has not come in 300 s")
    assert "dataset.stall_seconds" in text
