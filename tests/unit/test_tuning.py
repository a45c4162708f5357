import pytest

from mpt.tuning import BLOCK, ROUNDS, JitTimes, StepsPerExecution, choose_jit, measure_jit


def run(choice, step_seconds):
    """Feed calls as a training loop would, `step_seconds(k)` each step; steps it took."""
    step = 0
    while choice.measuring:
        count = choice.value
        step += count
        choice.add(step, count, count * step_seconds(count))
    return step


def test_a_number_is_taken_as_it_is():
    choice = StepsPerExecution.choose(8, total_steps=10_000, deterministic=False)
    assert (choice.value, choice.reason, choice.measuring) == (8, "as configured", False)


def test_short_and_deterministic_runs_measure_nothing():
    assert not StepsPerExecution.choose("auto", 50, False).measuring
    assert not StepsPerExecution.choose("auto", 5_000, True).measuring


def test_the_faster_grouping_is_taken():
    many = StepsPerExecution.choose("auto", 5_000, False)
    run(many, lambda k: 0.001 if k == BLOCK else 0.002)
    assert many.value == BLOCK
    assert "measured" in many.reason
    one = StepsPerExecution.choose("auto", 5_000, False)
    steps = run(one, lambda k: 0.002 if k == BLOCK else 0.001)
    assert one.value == 1
    assert steps == one.settled_at == 1 + 2 * ROUNDS * BLOCK


def test_slow_steps_end_the_measurement_at_once():
    choice = StepsPerExecution.choose("auto", 5_000, False)
    assert run(choice, lambda k: 0.2) == 2
    assert choice.value == 1


def test_one_slow_trace_does_not_decide():
    choice = StepsPerExecution.choose("auto", 5_000, False)
    choice.add(1, 1, 30.0)
    assert choice.measuring


def test_blocks_survive_calls_cut_short_by_an_edge():
    choice = StepsPerExecution.choose("auto", 5_000, False)
    step = 0
    while choice.measuring:
        count = min(choice.value, 11 - step % 11)
        step += count
        choice.add(step, count, count * (0.001 if choice.value == BLOCK else 0.002))
    assert choice.value == BLOCK


def test_xla_is_left_alone_where_it_cannot_be_measured():
    def asked(value, replicas=1, deterministic=False, total_steps=5_000):
        return choose_jit(
            value, total_steps=total_steps, replicas=replicas, deterministic=deterministic
        )

    assert asked(True).enabled
    assert not asked(False).enabled
    assert not asked("auto", replicas=2).enabled
    assert not asked("auto", deterministic=True).enabled
    assert not asked("auto", total_steps=50).enabled
    assert asked("auto") is None


def in_turn(step, compiled, total_steps, compiling=5.0):
    """The choice where a step takes `step` s, and with XLA what `compiled` makes."""
    return measure_jit(
        lambda steps: step * steps, compiled, total_steps=total_steps, compiling=compiling
    )


def test_xla_is_not_compiled_where_that_would_take_more_than_its_share_of_the_run():
    def compiled():
        raise AssertionError("compiled")

    choice = in_turn(0.1, compiled, total_steps=2_000)  # 200 s
    assert not choice.enabled
    assert choice.times is None
    assert "about 200 s, and trying XLA, in about 8 s, would be over 3%" in choice.reason


def test_xla_is_chosen_where_it_measures_faster():
    for speed, expected in ((0.5, True), (2.0, False)):
        choice = in_turn(
            0.1, lambda speed=speed: lambda steps: 0.1 * speed * steps, total_steps=100_000
        )
        assert choice.enabled is expected
        assert choice.times == JitTimes(
            pytest.approx(0.1), pytest.approx(0.1 * speed), choice.times.compiling
        )


def test_rounds_end_where_compiling_has_taken_the_share(monkeypatch):
    now, rounds = [0.0], []
    monkeypatch.setattr("mpt.tuning.time.perf_counter", lambda: now[0])

    def candidate(steps):
        now[0] += 100.0 if steps == 1 else 0.0
        rounds.append(steps)
        return 0.05 * steps

    choice = in_turn(0.1, lambda: candidate, total_steps=3_000)  # 9 s of 300 s
    assert rounds == [1, 5]
    assert choice.enabled
    assert choice.seconds == choice.times.compiling == 100.0


def test_a_step_that_xla_refuses_runs_without():
    def refused(steps):
        raise ValueError("no XLA kernel")

    choice = in_turn(0.1, lambda: refused, total_steps=100_000)
    assert not choice.enabled
    assert "no XLA kernel" in choice.reason
    assert choice.times is None, "for lack of memory, it may be: not to be kept"


def test_what_was_measured_before_decides_by_what_it_gains():
    known = JitTimes(without=0.1, with_xla=0.08, compiling=10.0)
    asked = {"replicas": 1, "deterministic": False, "known": known}
    short, long = (choose_jit("auto", total_steps=n, **asked) for n in (400, 600))
    assert not short.enabled
    assert "takes 10 s, which 400 steps do not repay" in short.reason
    assert long.enabled
    assert long.reason.startswith("in an earlier run: measured 80 ms a step with XLA, 100 ms")
    assert not choose_jit(False, total_steps=600, **asked).enabled
    assert not choose_jit("auto", total_steps=600, **{**asked, "deterministic": True}).enabled
    slower = JitTimes(without=0.1, with_xla=0.2, compiling=10.0)
    assert not choose_jit("auto", total_steps=10**6, **{**asked, "known": slower}).enabled


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        [],
        {"without": 0.1},
        {"without": -1.0, "with_xla": 0.1, "compiling": 1.0},
        {"without": float("nan"), "with_xla": 0.1, "compiling": 1.0},
        {"without": 0.1, "with_xla": "fast", "compiling": 1.0},
        {"without": 0.1, "with_xla": None, "compiling": 1.0},
    ],
)
def test_times_that_are_none_are_not_known(state):
    assert JitTimes.kept(state) is None


def test_steps_a_call_are_those_of_an_earlier_run():
    first = StepsPerExecution.choose("auto", 5_000, False)
    assert not first.measured
    run(first, lambda k: 0.001 if k == BLOCK else 0.002)
    assert first.measured
    for total in (5_000, 50):  # it costs a short run nothing
        again = StepsPerExecution.choose("auto", total, False, known=first.state())
        assert (again.value, again.measuring, again.measured) == (BLOCK, False, False)
        assert again.reason == f"in an earlier run: {first.reason}"
    assert StepsPerExecution.choose(3, 5_000, False, known=first.state()).value == 3
    assert StepsPerExecution.choose("auto", 5_000, True, known=first.state()).value == 1
    assert StepsPerExecution.choose("auto", 5_000, False, 2, known=first.state()).value == 1
    for broken in ({}, {"value": 0, "reason": ""}, {"value": None, "reason": ""}, 5):
        assert StepsPerExecution.choose("auto", 5_000, False, known=broken).measuring
