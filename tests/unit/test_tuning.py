from mpt.tuning import BLOCK, ROUNDS, StepsPerExecution, choose_jit, measure_jit


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


def test_xla_is_not_compiled_for_a_short_run():
    def compiled():
        raise AssertionError("compiled")

    choice = measure_jit(
        lambda steps: 0.01 * steps, compiled, total_steps=100, worthwhile_seconds=300
    )
    assert not choice.enabled
    assert "too short" in choice.reason


def test_xla_is_chosen_where_it_measures_faster():
    for speed, expected in ((0.5, True), (2.0, False)):
        choice = measure_jit(
            lambda steps: 0.1 * steps,
            lambda speed=speed: lambda steps: 0.1 * speed * steps,
            total_steps=100_000,
            worthwhile_seconds=300,
        )
        assert choice.enabled is expected


def test_a_step_that_xla_refuses_runs_without():
    def refused(steps):
        raise ValueError("no XLA kernel")

    choice = measure_jit(
        lambda steps: 0.1 * steps, lambda: refused, total_steps=100_000, worthwhile_seconds=300
    )
    assert not choice.enabled
    assert "no XLA kernel" in choice.reason
