"""The tags that are read of metrics.jsonl."""

import math
import os
from typing import Any

import pytest

from mpt.comparison.collect import collect
from mpt.comparison.curves import read_curves

TAG = "validation/accuracy"


def test_tags_steps_and_seconds(write_run: Any, learning: Any) -> None:
    rows = learning(0.9, count=4)
    del rows[1][TAG]
    rows[2][TAG] = "NaN"
    write_run(rows=rows)
    (run,) = collect([write_run.folder]).runs
    assert read_curves(run, TAG) is None
    curve = run.curves[TAG]
    assert list(curve.steps) == [100, 300, 400]
    assert curve.seconds is not None
    assert list(curve.seconds) == [1, 3, 4]
    assert math.isnan(curve.values[1])
    assert curve.values[2] == pytest.approx(0.9)
    assert run.curves.keys() == {"train/loss", TAG, "loss_scale/scale"}


def test_skips_are_where_their_count_rose(write_run: Any, learning: Any) -> None:
    rows = learning(0.9, count=5)
    for row, count in zip(rows, (0, 2, 2, 3, 3), strict=True):
        row["loss_scale/skipped_steps"] = float(count)
    write_run(rows=rows)
    (run,) = collect([write_run.folder]).runs
    read_curves(run, TAG)
    assert run.skips == [200, 400]


def test_rows_without_their_time_have_no_seconds(write_run: Any, learning: Any) -> None:
    rows = learning(0.9)
    del rows[3]["wall_seconds"]
    write_run(rows=rows)
    (run,) = collect([write_run.folder]).runs
    read_curves(run, TAG)
    assert run.curves[TAG].seconds is None
    assert len(run.curves[TAG].steps) == 10


@pytest.mark.parametrize("bad", ["{oops}", "[1, 2]", '{"epoch": 3}', '{"step": true}'])
def test_a_line_that_is_no_row_ends_the_reading(write_run: Any, learning: Any, bad: str) -> None:
    path = write_run(rows=learning(0.9, count=2)) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + bad + "\n" + lines[1])
    (run,) = collect([write_run.folder]).runs
    problem = read_curves(run, TAG)
    assert problem is not None
    assert f"{path}:2" in problem
    assert len(run.curves[TAG].steps) == 1


def test_a_last_line_that_is_being_written_is_left_out(write_run: Any, learning: Any) -> None:
    path = write_run(rows=learning(0.9, count=2)) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 300, "train/lo')
    (run,) = collect([write_run.folder]).runs
    assert read_curves(run, TAG) is None
    assert len(run.curves[TAG].steps) == 2


def test_no_file_is_no_problem(write_run: Any) -> None:
    write_run()
    (run,) = collect([write_run.folder]).runs
    assert read_curves(run, TAG) is None
    assert run.curves == {}


def test_a_file_that_cannot_be_read_is_told(write_run: Any, learning: Any) -> None:
    path = write_run(rows=learning(0.9)) / "metrics.jsonl"
    path.unlink()
    os.mkfifo(path)
    (run,) = collect([write_run.folder]).runs
    assert read_curves(run, TAG) == f"{path} cannot be read: Not a regular file"
    assert run.curves == {}


def test_a_step_that_is_not_finite_is_no_row(write_run: Any, learning: Any) -> None:
    path = write_run(rows=learning(0.9, count=2)) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1e999, "loss_scale/skipped_steps": 3}\n')
    (run,) = collect([write_run.folder]).runs
    assert f"{path}:3" in str(read_curves(run, TAG))
