"""The soak finds what grows, in a process that leaks and in figures made by hand."""

import sys
from dataclasses import replace

import pytest

from bench import soak
from bench.soak import Row

# Writes the rows that a run would. Of what leaks it keeps more at each step, and gets slower; else
# it takes memory, a file and a thread too, and gives them back.
RUN = """
import json, os, sys, threading, time

run, leaks = sys.argv[1], sys.argv[2] == "leaks"
kept = [bytearray(os.urandom(2**24))]
with open(run + "/metrics.jsonl", "w") as metrics:
    for step in range(1, 101):
        milliseconds = 10 + (step if leaks else step % 3)
        row = {"step": step, "throughput/step_time_ms": milliseconds, "wall_seconds": 0.1 * step}
        metrics.write(json.dumps({"step": step}) + "\\n" + json.dumps(row) + "\\n")
        metrics.flush()
        thread = threading.Thread(target=time.sleep, args=(9 if leaks else 0.001,), daemon=True)
        thread.start()
        more = [bytearray(os.urandom(2**16)), open(os.devnull), thread]
        if leaks:
            kept += more
        else:
            more[1].close()
        time.sleep(0.015)
"""
FLAT = [Row(rss=8e8, handles=10, threads=35, step_ms=3.0, rest=1.0, cpu_ms=4.0, others=0.1)] * 10
BOUNDS = ["memory", "file handles", "threads", "step time"]


def broken(table):
    return [bound.name.split(",")[0] for bound in soak.bounds(table) if not bound.holds]


@pytest.mark.parametrize(("kind", "found"), [("leaks", BOUNDS), ("tidy", [])])
def test_a_process_is_watched_from_outside(tmp_path, monkeypatch, kind, found):
    monkeypatch.setattr(soak, "INTERVAL", 0.01)
    watched = soak.watch([sys.executable, "-c", RUN, str(tmp_path), kind], tmp_path)
    assert [each.step for each in watched.log] == list(range(1, 101))
    table = soak.rows(watched, 100)
    assert broken(table) == found
    if not found:
        assert [row.step_ms for row in table] == [11] * 10
        assert [row.rest for row in table] == pytest.approx([0.89] * 10, abs=0.01)


@pytest.mark.parametrize(
    ("at", "change", "found"),
    [
        (9, {"rss": 8.17e8}, ["memory"]),
        (4, {"rss": 8.17e8}, ["memory"]),
        (9, {"rss": 8.15e8}, []),
        (0, {"rss": 1e8, "handles": 5, "threads": 9}, []),  # the warm-up
        (9, {"handles": 11}, ["file handles"]),
        (9, {"threads": 36}, ["threads"]),
        (9, {"step_ms": 3.1}, ["step time"]),
        (9, {"step_ms": 3.08}, []),
        (0, {"step_ms": 2.9}, ["step time"]),
    ],
)
def test_each_bound_holds_to_its_limit(at, change, found):
    table = [replace(row, **change) if number == at else row for number, row in enumerate(FLAT)]
    assert broken(table) == found


def test_a_run_that_fails_is_no_soak(tmp_path):
    with pytest.raises(SystemExit, match="no such run"):
        soak.watch([sys.executable, "-c", "raise SystemExit('no such run')"], tmp_path)


def test_a_run_too_short_to_be_looked_at_is_no_soak():
    with pytest.raises(SystemExit, match="longer"):
        soak.rows(soak.Watched([], []), 100)
