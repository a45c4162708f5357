import math

import numpy as np
import pytest

from mpt.stopping import Best, Cause, DivergenceRules
from mpt.telemetry.loss_scale import LossScaleHistory
from mpt.telemetry.window import Window

NAN, INF = math.nan, math.inf
FLOOR = 2.0**-14


def window(step, losses, skips=None, *, scales=1.0, norms=1.0):
    """The steps up to `step`; `skips` is how many in a row each one is the last of."""
    count = len(losses)
    skips = skips or [0] * count
    rows = {
        "loss": np.array(losses, "float32"),
        "finite": np.array([not s for s in skips], "float32"),
        "consecutive_skips": np.array(skips, "float32"),
        "scale": np.broadcast_to(np.float32(scales), count),
        "global_norm": np.broadcast_to(np.float32(norms), count),
    }
    return Window(step=step, rows=rows, seconds=1.0, examples=count)


def ran(rules, *losses, length=10):
    """The reasons of windows of equal steps, one for each mean loss."""
    return [rules.check(window((i + 1) * length, [v] * length)) for i, v in enumerate(losses)]


def test_skips_in_a_row_stop_at_the_step_that_reached_the_bound():
    rules = DivergenceRules(max_consecutive_skips=3)
    assert rules.check(window(4, [1.0] * 4, [0, 0, 1, 2])) is None
    reason = rules.check(window(8, [1.0] * 4, [3, 4, 5, 6]))
    assert (reason.rule, reason.step) == ("max_consecutive_skips", 5)
    assert "min_scale" in reason.message


class TestAllSkipped:
    """At the end of a run that is too short for the rules that count."""

    def scales(self, skipped, *, scale=32768.0):
        history = [[1, scale]] if skipped else []
        return LossScaleHistory("dynamic", 32768.0, history, skipped_steps=skipped)

    def test_a_run_without_an_applied_step_has_diverged(self):
        reason = DivergenceRules(50).at_end(20, self.scales(20))
        assert (reason.rule, reason.step) == ("all_skipped", 20)
        assert reason.message.startswith("all 20 steps were skipped for non-finite gradients")
        assert not reason.is_early
        assert DivergenceRules(50).at_end(1, self.scales(1)).message.startswith("the only step was")

    @pytest.mark.parametrize(("steps", "skipped"), [(0, 0), (20, 19), (1, 0)])
    def test_any_other_has_not(self, steps, skipped):
        assert DivergenceRules(50).at_end(steps, self.scales(skipped)) is None

    def test_the_cause_is_named_where_one_was_found(self):
        rules = DivergenceRules(50)
        rules.check(window(2, [NAN] * 2, [1, 2]), Cause(1, "row 3 of the batch holds NaN"))
        assert "step 1: row 3 of the batch holds NaN" in rules.at_end(2, self.scales(2)).message

    def test_a_scale_that_still_falls_may_be_all_that_is_wrong(self):
        rules = DivergenceRules(50, min_scale=FLOOR, initial_scale=32768.0)
        message = rules.at_end(5, self.scales(5, scale=1024.0)).message
        assert "the loss scale, now 1024, is still on its way down" in message
        at_floor = rules.at_end(40, self.scales(40, scale=FLOOR)).message
        assert "on its way down" not in at_floor


def test_skips_with_a_nan_loss_are_not_blamed_on_the_scale():
    reason = DivergenceRules(max_consecutive_skips=1).check(window(1, [NAN], [1]))
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


class TestScaleAtFloor:
    def rules(self, **changes):
        setting = {"max_consecutive_skips": 3, "min_scale": FLOOR, "initial_scale": 2 * FLOOR}
        return DivergenceRules(**{**setting, **changes})

    def alternating(self, step, scale):
        """A skipped and an applied step, in turn."""
        return window(step, [1.0] * 4, [1, 0, 1, 0], scales=scale)

    def test_skips_are_counted_over_the_clean_steps_between_them(self):
        rules = self.rules()
        assert rules.check(self.alternating(4, FLOOR)) is None, "step 1 only brought it there"
        reason = rules.check(self.alternating(8, FLOOR))
        assert (reason.rule, reason.step) == ("scale_at_floor", 7)
        assert reason.message.startswith("3 steps since step 3 were skipped")
        assert "loss_scale.min_scale=6.10352e-05" in reason.message
        assert "mixed_bfloat16" in reason.message

    def test_a_scale_that_rose_begins_anew(self):
        rules = self.rules()
        rules.check(self.alternating(4, FLOOR))
        rules.check(window(6, [1.0] * 2, scales=[FLOOR, 2 * FLOOR]))
        assert rules.check(self.alternating(10, FLOOR)) is None
        assert rules.check(self.alternating(14, FLOOR)).step == 13

    def test_a_scale_that_starts_at_its_floor_counts_from_the_first_step(self):
        rules = self.rules(initial_scale=FLOOR)
        rules.check(self.alternating(4, FLOOR))
        assert rules.check(self.alternating(8, FLOOR)).step == 5

    def test_a_floor_that_is_no_float32_number_is_found_all_the_same(self):
        rules = self.rules(min_scale=0.1, initial_scale=0.1)
        rules.check(self.alternating(4, 0.1))
        assert rules.check(self.alternating(8, 0.1)).step == 5

    @pytest.mark.parametrize("scale", [1.0, FLOOR])
    def test_a_scale_that_is_not_dynamic_has_no_floor(self, scale):
        rules = self.rules(min_scale=None)
        assert all(rules.check(self.alternating(4 * i, scale)) is None for i in range(1, 9))

    def test_a_cause_at_the_floor_is_told(self):
        rules = self.rules()
        rules.check(self.alternating(4, FLOOR), Cause(3, "Dense 'a' overflowed"))
        assert "step 3: Dense 'a'" in rules.check(self.alternating(8, FLOOR)).message

    def test_skips_that_are_in_a_row_as_well_are_called_that(self):
        rules = self.rules(initial_scale=FLOOR)
        reason = rules.check(window(3, [1.0] * 3, [1, 2, 3], scales=FLOOR))
        assert reason.rule == "max_consecutive_skips"


class TestNonfiniteLoss:
    def test_applied_steps_without_a_finite_loss_stop(self):
        rules = DivergenceRules(3)
        assert rules.check(window(4, [1.0, 1.0, INF, NAN])) is None
        reason = rules.check(window(6, [NAN, 1.0]))
        assert (reason.rule, reason.step) == ("nonfinite_loss", 5)
        assert "3 steps in a row, since step 3" in reason.message
        assert "logarithm" in reason.message

    def test_one_finite_loss_ends_the_row(self):
        rules = DivergenceRules(3)
        assert all(rules.check(window(3 * i, [NAN, NAN, 1.0])) is None for i in range(1, 9))

    def test_skips_between_them_do_not(self):
        """No step brought the run further, though neither kind came three times in a row."""
        rules = DivergenceRules(3)
        reason = rules.check(window(6, [NAN] * 6, [0, 1, 0, 1, 0, 1]))
        assert (reason.rule, reason.step) == ("nonfinite_loss", 5)

    def test_its_cause_is_told(self):
        reason = DivergenceRules(2).check(window(2, [INF] * 2), Cause(1, "log(0) in the loss"))
        assert reason.message.endswith("step 1: log(0) in the loss")


class TestZeroGradients:
    def test_so_many_applied_steps_in_a_row_stop(self):
        rules = DivergenceRules(50, zero_gradient_steps=4)
        assert rules.check(window(4, [2.0] * 4, norms=[1, 0, 0, 0])) is None
        reason = rules.check(window(6, [2.0] * 2, norms=0))
        assert (reason.rule, reason.step) == ("zero_gradients", 5)
        assert "4 steps in a row, since step 2, were exactly 0 at a loss of 2:" in reason.message
        assert "loss_scale.mode=dynamic" in reason.message
        assert "mpt probe" in reason.message

    def test_one_that_is_not_zero_ends_the_row(self):
        rules = DivergenceRules(50, zero_gradient_steps=4)
        step = [rules.check(window(4 * i, [2.0] * 4, norms=[1e-38, 0, 0, 0])) for i in range(1, 9)]
        assert step == [None] * 8

    def test_skipped_steps_are_passed_over(self):
        rules = DivergenceRules(50, zero_gradient_steps=4)
        skips, norms = [0, 1, 0, 1, 0, 1, 0], [0, NAN, 0, INF, 0, NAN, 0]
        assert rules.check(window(7, [2.0] * 7, skips, norms=norms)).step == 7

    @pytest.mark.parametrize("left", [0.0, 2.4e-7, -2.4e-7])
    def test_a_perfect_fit_is_no_divergence(self, left):
        """A clipped logarithm leaves 2e-7 of a loss that cannot fall any further."""
        rules = DivergenceRules(50, zero_gradient_steps=4)
        rules.check(window(1, [2.3]))
        assert rules.check(window(9, [left] * 8, norms=0)) is None

    def test_a_loss_that_was_0_from_the_start_is_one_too(self):
        rules = DivergenceRules(50, zero_gradient_steps=4)
        assert rules.check(window(9, [0.0] * 9, norms=0)) is None

    @pytest.mark.parametrize("loss", [1e-12, -3.0, NAN])
    def test_a_loss_that_is_small_or_negative_from_the_start_is_not(self, loss):
        rules = DivergenceRules(50, zero_gradient_steps=4)
        assert rules.check(window(9, [loss] * 9, norms=0)).rule == "zero_gradients"

    def test_null_never_stops(self):
        assert DivergenceRules(50).check(window(500, [2.0] * 500, norms=0)) is None


class TestMaxLossRatio:
    def rules(self, ratio=1000.0):
        return DivergenceRules(50, max_loss_ratio=ratio)

    @pytest.mark.parametrize(("loss", "stops"), [(1999.0, False), (2001.0, True)])
    def test_an_interval_is_held_against_the_first(self, loss, stops):
        first, second, third = ran(self.rules(), 2.0, 1.0, loss)
        assert (first, second) == (None, None)
        assert (third is not None) == stops
        if stops:
            assert (third.rule, third.step) == ("max_loss_ratio", 30)
            assert third.message.startswith(
                "the mean loss of the last 10 applied steps is 2001, over "
                "trainer.stop.max_loss_ratio=1000 times that of the run's first interval, 2: try a "
                "lower optimizer.learning_rate"
            )

    def test_a_loss_that_exploded_within_the_first_interval_and_stays_is_found(self):
        rules = self.rules()
        assert rules.check(window(10, [2.0, 9.0, *[1e6] * 8])) is None, "it may come down"
        reason = rules.check(window(20, [1e6] * 10))
        assert (reason.rule, reason.step) == ("max_loss_ratio", 20)
        assert "median loss" in reason.message
        assert "the run's first step, 2:" in reason.message

    def test_a_loss_that_jumps_at_the_start_and_comes_down_is_no_explosion(self):
        rules = self.rules()
        assert rules.check(window(10, [2.0, *[1e6] * 9])) is None
        assert rules.check(window(20, [*[1e6] * 4, *[100.0] * 6])) is None
        assert rules.check(window(30, [100.0] * 10)) is None

    def test_a_single_batch_is_no_interval(self):
        """An evaluation, or the end, may cut one short; and trainer.log_every may be 1."""
        rules = self.rules()
        assert ran(rules, 2.0) == [None]
        assert rules.check(window(11, [9e3])) is None
        assert rules.check(window(20, [2.0] * 9)) is None, "the mean of the ten is 902"
        assert rules.check(window(21, [9e4])) is None
        assert rules.check(window(30, [2.0] * 9)).step == 30, "9,002 even so"

    def test_one_step_is_no_first_interval(self):
        rules = self.rules()
        assert rules.check(window(1, [1e-4])) is None, "small by chance: it bounds nothing"
        assert rules.check(window(11, [100.0] * 10)) is None
        assert rules.check(window(21, [100.0] * 10)) is None

    def test_losses_near_zero_at_the_start_have_no_ratio_to_speak_of(self):
        """Trained weights to start from, and an optimizer that has yet to find its pace."""
        assert ran(self.rules(), 1e-6, 0.05, 0.9) == [None] * 3
        assert ran(self.rules(), 1e-6, 1.1)[1] is not None, "0.001 is what they count as"

    def test_a_loss_of_exactly_zero_is_no_start(self):
        assert ran(self.rules(), 0.0, 5.0, 6.0) == [None] * 3
        assert ran(self.rules(), 0.0, 5.0, 5001.0)[2] is not None

    def test_a_loss_that_was_ever_negative_has_no_ratio(self):
        assert ran(self.rules(), 0.01, -0.5, 1e9, 1e9) == [None] * 4
        assert ran(self.rules(), -1.0, 5.0, 1e9) == [None] * 3

    def test_losses_that_are_not_finite_or_not_applied_are_left_out(self):
        rules = self.rules()
        ran(rules, 2.0)
        skipped = [0, 1] * 10
        assert rules.check(window(30, [2.0, 1e30] * 10, skipped)) is None
        assert rules.check(window(50, [2.0, INF] * 10)) is None
        assert rules.check(window(70, [2.0, NAN] * 10)) is None

    def test_a_first_interval_that_was_skipped_is_none(self):
        rules = self.rules()
        assert rules.check(window(20, [1e9] * 20, list(range(1, 21)))) is None
        assert ran(rules, 2.0, 1999.0, 2001.0)[2] is not None

    def test_null_never_stops(self):
        assert ran(self.rules(None), 1.0, 1e30) == [None, None]


def test_an_infinite_mean_loss_is_explained_by_its_cause():
    rules = DivergenceRules(50, max_loss=10.0)
    infinite = window(2, [INF, 1.0])
    assert "Dense 'a'" in rules.check(infinite, Cause(1, "Dense 'a' overflowed")).message
    high = window(4, [11.0, 11.0])
    assert "optimizer.learning_rate" in rules.check(high, Cause(3, "Dense 'a'")).message


@pytest.mark.parametrize(("loss", "stops"), [(9.9, False), (10.1, True)])
def test_max_loss(loss, stops):
    reason = DivergenceRules(50, max_loss=10.0).check(window(2, [loss, loss]))
    assert (reason is not None) == stops


def test_the_mean_loss_leaves_skipped_steps_out():
    assert window(2, [1.0, NAN], [0, 1]).loss == 1.0
    assert np.isnan(window(1, [NAN], [1]).loss)


def test_a_loss_flat_over_two_windows_stops():
    rules = DivergenceRules(50, flat_steps=4)
    assert rules.check(window(3, [2.0, 1.0, 1.0])) is None
    reason = rules.check(window(6, [1.0, 1.0, 1.0]))
    assert (reason.rule, reason.step) == ("flat_steps", 6)
    assert "loss_scale.mode=dynamic" in reason.message
    assert rules.check(window(9, [1.0, 0.5, 0.5])) is not None, "step 7 was flat still"
    assert rules.check(window(12, [0.4, 0.3, 0.2])) is None


def test_of_several_rules_the_one_that_held_first_is_told():
    rules = DivergenceRules(4, max_loss=10.0, zero_gradient_steps=2)
    shown = window(6, [99.0, 99.0, 99.0, NAN, NAN, NAN], norms=[1, 0, 0, 1, 1, 1])
    reason = rules.check(shown)
    assert (reason.rule, reason.step) == ("zero_gradients", 3)


def test_a_window_without_steps_tells_nothing():
    rules = DivergenceRules(2)
    rules.check(window(2, [1.0, 1.0], [0, 1]))
    assert rules.check(window(2, [])) is None
    assert not rules.healthy({})


class TestHealthy:
    GOOD = window(20, [2.0] * 20)

    def rules(self):
        rules = DivergenceRules(50, 1500.0, 90, 1000.0, 4, min_scale=FLOOR, initial_scale=FLOOR)
        assert rules.healthy({}), "before the first step"
        assert rules.check(self.GOOD) is None
        assert rules.healthy({})
        return rules

    @pytest.mark.parametrize(
        "last",
        [
            pytest.param(window(22, [2.0] * 2, [0, 1]), id="skipped"),
            pytest.param(window(22, [2.0, NAN]), id="nan"),
            pytest.param(window(22, [2.0, INF]), id="inf"),
            pytest.param(window(22, [2.0, 1501.0]), id="over max_loss"),
            pytest.param(window(22, [2.0] * 2, norms=[1, 0]), id="zero gradients"),
            pytest.param(window(22, [2.0] * 2, [1, 0], scales=FLOOR), id="skipped at the floor"),
        ],
    )
    def test_what_is_going_on_is_seen_before_and_after_it_is_counted(self, last):
        rules = self.rules()
        if last.rows["scale"][0] == FLOOR:
            rules.check(window(21, [2.0], scales=FLOOR))
        before = rules.state()
        assert not rules.healthy(last.rows)
        assert rules.state() == before, "nothing was counted"
        rules.check(last)
        assert not rules.healthy({})
        assert not rules.healthy({name: column[:0] for name, column in last.rows.items()})
        assert rules.healthy(window(23, [2.0], scales=1.0).rows), "over"
        assert rules.check(window(23, [2.0], scales=1.0)) is None
        assert rules.healthy({})

    @pytest.mark.parametrize(("loss", "healthy"), [(1999.0, True), (2001.0, False)])
    def test_the_last_loss_is_below_the_ratio(self, loss, healthy):
        rules = DivergenceRules(50, max_loss_ratio=1000.0)
        assert rules.healthy(window(1, [loss]).rows), "there is nothing to hold it against yet"
        rules.check(self.GOOD)
        last = window(22, [2.0, loss])
        assert rules.healthy(last.rows) == healthy
        rules.check(last)
        assert rules.healthy({}) == healthy

    def test_what_is_over_is_no_longer_going_on(self):
        rows = window(25, [NAN, 4e3, 2.0, NAN, 2.0], [1, 0, 0, 1, 0], norms=[NAN, 0, 0, NAN, 1])
        assert self.rules().healthy(rows.rows)

    def test_what_will_stop_the_run_once_it_is_looked_at_is_not_over(self):
        rows = window(25, [2.0, 1e9, 2.0, 2.0, 2.0])
        assert not self.rules().healthy(rows.rows)
        assert self.rules().check(rows).rule == "max_loss"

    def test_a_perfect_fit_is_healthy(self):
        assert self.rules().healthy(window(25, [0.0] * 5, norms=0).rows)


def test_best_keeps_the_first_of_equals_and_ignores_nan():
    best = Best("validation/accuracy", "max")
    for step, value in [(1, 0.5), (2, NAN), (3, 0.7), (4, 0.7), (5, 0.6)]:
        assert best.update(step, value) is None
    assert (best.value, best.step) == (0.7, 3)


def test_patience_counts_evaluations_since_the_last_real_improvement():
    best = Best("validation/loss", "min", min_delta=0.1, patience=2)
    assert best.update(1, 1.0) is None
    assert best.update(2, 0.95) is None
    assert best.update(3, 0.8) is None, "better by more than min_delta"
    assert best.update(4, 0.79) is None
    assert best.update(5, 0.78).rule == "early_stopping"
