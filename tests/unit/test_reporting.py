"""A run's wall time."""

import pytest

from mpt import reporting
from mpt.reporting import Clock


class Time:
    """Stands in for the module; `now` is the system's clock, `even` the one that is never put."""

    def __init__(self):
        self.now, self.even = 1000.0, 5.0

    def time(self):
        return self.now

    def monotonic(self):
        return self.even

    def passes(self, seconds, put=0.0):
        self.now += seconds + put
        self.even += seconds


@pytest.fixture
def time(monkeypatch):
    found = Time()
    monkeypatch.setattr(reporting, "time", found)
    return found


@pytest.mark.parametrize("put", [0.0, -3600.0, 3600.0])
def test_a_clock_that_is_put_changes_no_times(time, put):
    clock = Clock(started=998.0)
    time.passes(3, put=put)
    assert clock.elapsed == pytest.approx(5)
    clock.add(20)
    time.passes(1)
    assert clock.elapsed == pytest.approx(26)


def test_a_clock_that_was_put_back_while_the_process_started(time):
    clock = Clock(started=1500.0)
    time.passes(2)
    assert clock.elapsed == pytest.approx(2)
