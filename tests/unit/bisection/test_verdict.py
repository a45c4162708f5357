"""When a short training fails, and what its report is read as."""

import math

import pytest

from mpt.bisection.evidence import settled
from mpt.bisection.trials import Trial
from mpt.bisection.verdict import Outcome, failure, outcome, settling
from mpt.report import LossScale, Reason, RunReport

FLOAT32 = Outcome("completed", steps=200, first_loss=0.8, loss=0.5)


def verdict(reference=FLOAT32, tolerance=0.1, **changes):
    values = {"status": "completed", "steps": 200, "first_loss": 0.8, "loss": 0.5, **changes}
    return failure(Outcome(**values), reference, tolerance)


@pytest.mark.parametrize("loss", [0.5, 0.54, 0.1, -3.0])
def test_as_good_as_float32(loss):
    assert verdict(loss=loss) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "diverged", "rule": "max_loss"}, "diverged after 200 steps (max_loss)"),
        ({"status": "failed", "message": "ValueError: x"}, "failed: ValueError: x"),
        ({"status": "oom"}, "oom"),
        ({"loss": None}, "the final loss is not finite"),
        ({"loss": 0.56}, "12% above float32's 0.5, more than the tolerance"),
        ({"skipped": 200}, "all 200 steps were skipped"),
        ({"skipped": 3}, "3 of 200 steps were skipped"),
        ({"skipped": 14, "settling": 11}, "11 of them to settle the loss scale"),
        ({"diagnosis": [{"message": "exp overflowed\nmore", "direction": "forward"}]}, "exp"),
    ],
)
def test_failures(changes, words):
    assert words in verdict(**changes)


def trial(layers=("a",), **changes):
    values = {"status": "completed", "steps": 60, "skipped": 9, "settling": 9, **changes}
    ended = Outcome(**values)
    return Trial("trials/01", layers, [], ended, exit_code=0, passed=True, why="", seconds=1.0)


def test_skips_while_the_scale_settles_ask_for_more_steps():
    said = (
        "9 of 60 steps were skipped while the scale settled: "
        "--steps 600 would tell the layers apart better"
    )
    assert settled([trial(layers=None, skipped=20, settling=20), trial()]) == said
    assert settled([trial(skipped=4, settling=4), trial(skipped=12)]) == said


@pytest.mark.parametrize(
    "changes",
    [
        {"skipped": 3, "settling": 3},  # one in twenty
        {"skipped": 9, "settling": 3},
        {"status": "diverged", "skipped": 60, "settling": 15},
        {"layers": None},  # float32
        {"steps": 0, "skipped": 0, "settling": 0},
    ],
)
def test_few_of_them_do_not(changes):
    assert settled([trial(**changes)]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"skipped": 2},  # one in a hundred
        {"skipped": 13, "settling": 11},
        {"loss": 0.56, "tolerance": 0.2},
        {"diagnosis": [{"message": "row 3 holds NaN", "direction": "input"}]},
    ],
)
def test_no_failures(changes):
    assert verdict(**changes) is None


def test_what_float32_has_too_is_no_failure():
    diagnosis = [{"message": "log(0)", "direction": "loss"}]
    reference = Outcome(
        "completed", steps=200, skipped=9, first_loss=0.8, loss=0.5, diagnosis=diagnosis
    )
    assert verdict(reference, skipped=9, diagnosis=diagnosis) is None
    assert verdict(reference, skipped=12) is not None
    assert verdict(reference, diagnosis=[{"message": "m", "direction": "forward"}]) == "m"


def test_near_zero_the_first_loss_is_the_measure():
    reference = Outcome("completed", steps=200, first_loss=2.0, loss=1e-4)
    assert verdict(reference, loss=0.1) is None
    assert verdict(reference, loss=0.11) == (
        "final loss 0.11, above float32's 0.0001 by more than the tolerance (11% of half the first "
        "loss)"
    )
    exact = Outcome("completed", steps=200, first_loss=0.0, loss=0.0)
    assert verdict(exact, loss=0.0) is None
    assert verdict(exact, loss=1e-9) is not None


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, False),
        ({"skipped": 100}, False),
        ({"skipped": 101}, True),
        ({"loss": None}, True),
        ({"status": "diverged"}, True),
    ],
)
def test_float32_itself_only_has_to_train(changes, fails):
    assert (verdict(None, **changes) is not None) == fails


@pytest.mark.parametrize(
    ("mode", "history", "hysteresis", "expected"),
    [
        ("dynamic", [[1, 16384.0], [2, 8192.0], [3, 4096.0]], 1, 3),
        ("dynamic", [[1, 32768.0], [2, 16384.0], [50, 32768.0], [51, 16384.0]], 1, 2),
        ("dynamic", [[1, 16384.0], [3, 8192.0]], 2, 4),
        ("dynamic", [[step, 2.0 ** (15 - step)] for step in range(1, 30)], 1, 15),  # down to 1
        ("fixed", [[1, 32768.0]], 1, 0),
        ("none", [], 1, 0),
    ],
)
def test_skips_that_a_dynamic_scale_needs(mode, history, hysteresis, expected):
    scale = LossScale(mode=mode, initial=32768.0, history=history)
    assert settling(scale, {"hysteresis": hysteresis}) == expected


def report(**changes):
    made = RunReport(run_id="a", name="a", command=[], started_at="now", config={})
    made.status = "completed"
    made.training.steps = 40
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def rows(*losses, every=10):
    return [{"step": (i + 1) * every, "train/loss": loss} for i, loss in enumerate(losses)]


def test_the_final_loss_is_the_last_quarter_s_mean():
    assert outcome(report(), rows(4.0, 3.0, 2.0, 1.0)).loss == 1.0
    assert outcome(report(), rows(4.0, 3.0, 2.0, 1.0)).first_loss == 4.0
    assert outcome(report(), rows(*range(8), every=5)).loss == pytest.approx((6 + 7) / 2)
    # An interval cut short counts by its steps; one without an applied step does not.
    cut = [*rows(9.0, 9.0, 9.0), {"step": 36, "train/loss": 1.0}, {"step": 40, "train/loss": 3.0}]
    assert outcome(report(), cut).loss == pytest.approx((6 * 1 + 4 * 3) / 10)
    assert outcome(report(), rows(4.0, 3.0, math.nan, 1.0)).loss == 1.0
    assert outcome(report(), rows(*(8 * [math.nan]), every=5)).loss is None
    assert outcome(report(), []).loss is None


def test_why_it_ended_is_one_line():
    diverged = report(status="diverged", reason=Reason("max_loss", 40, "it rose\n  a lot"))
    read = outcome(diverged, rows(1.0))
    assert (read.status, read.rule, read.message) == ("diverged", "max_loss", "it rose a lot")
