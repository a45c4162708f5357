"""Throughput and loss-scale history from windows made by hand."""

import tracemalloc

import numpy as np
import pytest

from mpt.telemetry import loss_scale, throughput
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.throughput import Throughput
from mpt.telemetry.window import OpenWindow, Window


def window(step, scales, finite=None, seconds=2.0, wait=0.0):
    count = len(scales)
    finite = np.array(finite if finite is not None else [1] * count, "float32")
    skips, run = [], 0
    for good in finite:
        run = 0 if good else run + 1
        skips.append(run)
    rows = {
        "loss": np.ones(count, "float32"),
        "scale": np.array(scales, "float32"),
        "finite": finite,
        "skipped_steps": np.cumsum(finite == 0).astype("float32"),
        "consecutive_skips": np.array(skips, "float32"),
        "data_wait": np.full(count, wait, "float32"),
    }
    return Window(step=step, rows=rows, seconds=seconds, examples=10 * count)


def test_throughput_tags():
    tags = throughput.tags(window(4, [1, 1, 1, 1], wait=0.125))
    assert tags["throughput/examples_per_second"] == 20
    assert tags["throughput/steps_per_second"] == 2
    assert tags["throughput/step_time_ms"] == 500
    assert tags["throughput/data_wait_fraction"] == pytest.approx(0.25)


def test_the_warm_up_is_left_out_of_the_summary():
    measured = Throughput(warmup_steps=4, batch_size=10)
    measured.add(4, 4, 100.0)
    measured.add(6, 4, 100.0)
    measured.add(8, 2, 1.0)
    measured.add(16, 8, 8.0)
    summary = measured.summary()
    assert summary.measured_steps == 10
    assert summary.examples_per_second == pytest.approx(100 / 9)
    assert summary.step_time_ms.median == pytest.approx(1000), "weighted by steps"
    assert summary.step_time_ms.p10 == pytest.approx(500, rel=0.2)


def test_a_run_within_its_warm_up_measured_nothing():
    measured = Throughput(warmup_steps=20, batch_size=10)
    measured.add(10, 10, 1.0)
    summary = measured.summary()
    assert (summary.examples_per_second, summary.step_time_ms) == (None, None)
    assert summary.measured_steps == 0


def test_steps_spent_on_measuring_are_warm_up():
    measured = Throughput(warmup_steps=2, batch_size=1)
    measured.add(4, 2, 1.0)
    measured.extend_warmup(4)
    measured.add(6, 2, 4.0)
    assert measured.summary().warmup_steps == 4
    assert measured.summary().step_time_ms.median == 2000


def test_what_the_host_does_between_steps_slows_training_but_no_step():
    measured = Throughput(warmup_steps=2, batch_size=10)
    measured.add_between(2, 50.0)
    measured.add(4, 2, 1.0)
    measured.add_between(4, 1.0)
    summary = measured.summary()
    assert summary.examples_per_second == pytest.approx(10)
    assert summary.step_time_ms.median == pytest.approx(500)


def test_quantiles_are_those_of_all_steps_in_whatever_process_they_were_run():
    times = np.random.default_rng(0).uniform(0.001, 0.1, 1001)
    measured = Throughput(warmup_steps=0, batch_size=10)
    for step, seconds in enumerate(times.tolist(), 1):
        if step == 500:
            state = measured.state()
            measured = Throughput(warmup_steps=0, batch_size=10)
            measured.restore(state)
        measured.add(step, 1, seconds)
    summary = measured.summary()
    found = (summary.step_time_ms.p10, summary.step_time_ms.median, summary.step_time_ms.p90)
    assert found == pytest.approx(1e3 * np.percentile(times, (10, 50, 90)), rel=1e-6)
    assert summary.examples_per_second == pytest.approx(10 / times.mean(), rel=1e-6)


def test_a_run_of_a_million_calls_keeps_little_of_them():
    measured = Throughput(warmup_steps=0, batch_size=10)
    tracemalloc.start()
    for step in range(1000, 21_000):
        measured.add(step, 1, step / 1e6)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 12 * 20_000  # bytes
    state = measured.state()
    assert state["steps"].nbytes + state["seconds"].nbytes == 8 * 20_000


def test_the_scale_history_names_each_change_and_the_last_overflow():
    history = LossScaleHistory("dynamic", 8.0)
    history.add(window(3, [8, 8, 4], [1, 1, 0]))
    history.add(window(6, [4, 2, 2], [1, 0, 1]))
    summary = history.summary()
    assert summary.history == [[1, 8.0], [3, 4.0], [5, 2.0]]
    assert (summary.final, summary.min, summary.max) == (2.0, 2.0, 8.0)
    assert (summary.skipped_steps, summary.last_overflow_step) == (2, 5)
    assert summary.max_consecutive_skips == 1


def test_loss_scale_tags():
    tags = loss_scale.tags(window(4, [8, 4, 4, 2], [1, 0, 1, 0]))
    assert tags == {
        "loss_scale/scale": 2.0,
        "loss_scale/skipped_steps": 2.0,
        "loss_scale/skip_rate": 0.5,
        "loss_scale/consecutive_skips": 1.0,
    }


def rows_of(*losses: float) -> dict[str, np.ndarray]:
    return {
        "loss": np.array(losses, np.float32),
        "finite": np.ones(len(losses), np.float32),
    }


def test_an_open_window_takes_pieces_and_begins_anew_where_it_was_closed():
    window = OpenWindow(since=10)
    for piece in (rows_of(1.0, 2.0), rows_of(), rows_of(6.0)):
        window.add(piece)
    window.seconds += 1.5
    np.testing.assert_array_equal(window.rows["loss"], [1.0, 2.0, 6.0])
    closed = window.close(13, batch_size=4, metrics={"accuracy": 0.5})
    assert (closed.first, closed.step, closed.examples, closed.seconds) == (11, 13, 12, 1.5)
    assert closed.train_values == {"train/loss": 3.0, "train/accuracy": 0.5}
    assert (window.since, window.seconds, window.rows) == (13, 0.0, {})
    window.add(rows_of(7.0))
    assert window.close(14, batch_size=4).examples == 4


def test_an_open_window_goes_on_from_what_was_kept_of_it():
    window = OpenWindow(10, rows_of(1.0), 0.5)
    window.add(rows_of(3.0))
    assert window.close(12, batch_size=1).loss == 2.0
    assert OpenWindow(10, {}, 0.0).rows == {}
