import numpy as np
import pytest

from mpt.stopping import Best, Cause, DivergenceRules
from mpt.telemetry.window import Window


def window(step, losses, skips=None):
    count = len(losses)
    skips = skips or [0] * count
    rows = {
        "loss": np.array(losses, "float32"),
        "finite": np.array([not s for s in skips], "float32"),
        "consecutive_skips": np.array(skips, "float32"),
    }
    return Window(step=step, rows=rows, seconds=1.0, examples=count)


def test_skips_in_a_row_stop_at_the_step_that_reached_the_bound():
    rules = DivergenceRules(max_consecutive_skips=3)
    assert rules.check(window(4, [1.0] * 4, [0, 0, 1, 2])) is None
    reason = rules.check(window(8, [1.0] * 4, [3, 4, 5, 6]))
    assert (reason.rule, reason.step) == ("max_consecutive_skips", 5)
    assert "min_scale" in reason.message


def test_skips_with_a_nan_loss_are_not_blamed_on_the_scale():
    reason = DivergenceRules(max_consecutive_skips=1).check(window(1, [float("nan")], [1]))
    assert "no loss scale helps" in reason.message


def test_advice_follows_a_cause_among_the_skipped_steps():
    rules = DivergenceRules(max_consecutive_skips=3)
    assert rules.check(window(2, [1.0] * 2, [0, 1]), Cause(2, "Dense 'a' overflowed")) is None
    reason = rules.check(window(4, [1.0] * 2, [2, 3]), Cause(3, "Dense 'b' overflowed"))
    assert reason.message == (
        "3 steps in a row were skipped for non-finite gradients; step 2: Dense 'a' overflowed"
    )


def test_a_cause_of_steps_long_past_is_no_advice():
    rules = DivergenceRules(max_consecutive_skips=2)
    rules.check(window(2, [1.0] * 2, [0, 1]), Cause(2, "Dense 'a' overflowed"))
    reason = rules.check(window(5, [1.0] * 3, [0, 1, 2]))
    assert "Dense" not in reason.message
    assert "min_scale" in reason.message


def test_an_infinite_mean_loss_is_explained_by_its_cause():
    rules = DivergenceRules(50, max_loss=10.0)
    infinite = window(2, [float("inf"), 1.0])
    assert "Dense 'a'" in rules.check(infinite, Cause(1, "Dense 'a' overflowed")).message
    high = window(4, [11.0, 11.0])
    assert "optimizer.learning_rate" in rules.check(high, Cause(3, "Dense 'a'")).message


@pytest.mark.parametrize(("loss", "stops"), [(9.9, False), (10.1, True)])
def test_max_loss(loss, stops):
    reason = DivergenceRules(50, max_loss=10.0).check(window(2, [loss, loss]))
    assert (reason is not None) == stops


def test_the_mean_loss_leaves_skipped_steps_out():
    assert window(2, [1.0, float("nan")], [0, 1]).loss == 1.0
    assert np.isnan(window(1, [float("nan")], [1]).loss)


def test_a_loss_flat_over_two_windows_stops():
    rules = DivergenceRules(50, flat_steps=4)
    assert rules.check(window(3, [2.0, 1.0, 1.0])) is None
    reason = rules.check(window(6, [1.0, 1.0, 1.0]))
    assert (reason.rule, reason.step) == ("flat_steps", 6)
    assert "loss_scale.mode=dynamic" in reason.message
    assert rules.check(window(9, [1.0, 0.5, 0.5])) is not None, "step 7 was flat still"
    assert rules.check(window(12, [0.4, 0.3, 0.2])) is None


def test_best_keeps_the_first_of_equals_and_ignores_nan():
    best = Best("validation/accuracy", "max")
    for step, value in [(1, 0.5), (2, float("nan")), (3, 0.7), (4, 0.7), (5, 0.6)]:
        assert best.update(step, value) is None
    assert (best.value, best.step) == (0.7, 3)


def test_patience_counts_evaluations_since_the_last_real_improvement():
    best = Best("validation/loss", "min", min_delta=0.1, patience=2)
    assert best.update(1, 1.0) is None
    assert best.update(2, 0.95) is None
    assert best.update(3, 0.8) is None, "better by more than min_delta"
    assert best.update(4, 0.79) is None
    assert best.update(5, 0.78).rule == "early_stopping"
