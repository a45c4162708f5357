"""Whether a metric is the same, and how long it took to reach it."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mpt.comparison import compare, parity
from mpt.comparison.result import Parity
from mpt.errors import ConfigurationError

BASE = (0.970, 0.972, 0.969, 0.971, 0.973)


def judged(write_run: Any, ours: Any, base: Any = BASE, **arguments: Any) -> Parity:
    for seed, value in enumerate(base):
        write_run(seed=seed, accuracy=value)
    for seed, value in enumerate(ours):
        write_run(seed=seed, accuracy=value, policy="mixed_float16")
    (pairing,) = compare([write_run.folder], **arguments).pairings
    assert pairing.parity is not None
    return pairing.parity


def test_the_same_by_the_paired_equivalence_test(write_run: Any) -> None:
    ours = (0.971, 0.971, 0.970, 0.970, 0.974)
    found = judged(write_run, ours)
    differences = np.subtract(ours, BASE)
    p_value = max(
        stats.ttest_1samp(differences, -0.005, alternative="greater").pvalue,
        stats.ttest_1samp(differences, 0.005, alternative="less").pvalue,
    )
    assert found.outcome == "same"
    assert found.p_value == pytest.approx(p_value)
    assert found.margin == 0.005
    expected = stats.ttest_rel(ours, BASE).confidence_interval(0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert found.text.startswith("accuracy the same within 0.5 points (+0.02 points")


@pytest.mark.parametrize(
    ("shift", "noise", "expected"),
    [(-0.05, 0.001, "worse"), (0.02, 0.001, "better"), (-0.004, 0.01, "unclear")],
)
def test_outcomes(write_run: Any, shift: float, noise: float, expected: str) -> None:
    ours = [b + shift + noise * sign for b, sign in zip(BASE, (1, -1, 1, -1, 1), strict=True)]
    assert judged(write_run, ours).outcome == expected


@pytest.mark.parametrize(("seeds", "outcome"), [(4, "not_enough_seeds"), (5, "same")])
def test_five_seeds_are_needed(write_run: Any, seeds: int, outcome: str) -> None:
    found = judged(write_run, BASE[:seeds])
    assert found.outcome == outcome
    if seeds < 5:
        assert found.p_value is None
        assert found.text.endswith("not enough seeds to say: 4 of 5, 1 run left out")


def test_the_margin_is_never_finer_than_one_example(write_run: Any) -> None:
    assert judged(write_run, BASE, margin=0.1).margin == pytest.approx(1 / 359)


def test_the_margin_of_a_loss_is_relative(write_run: Any) -> None:
    for seed in range(5):
        change = {"metrics__final__validation/loss": 0.2 + seed / 100}
        write_run(seed=seed, **change)
        write_run(seed=seed, policy="mixed_float16", **change)
    result = compare([write_run.folder], metric="loss", margin=1.0)
    assert result.metric == "validation/loss"
    assert result.higher_is_better is False
    found = result.pairings[0].parity
    assert found is not None
    assert found.margin == pytest.approx(0.01 * 0.22)
    assert "points" not in found.text


def test_a_higher_loss_is_worse(write_run: Any) -> None:
    for seed in range(5):
        write_run(seed=seed, **{"metrics__final__validation/loss": 0.1 + seed / 1000})
        change = {"metrics__final__validation/loss": 0.2 + seed / 500}
        write_run(seed=seed, policy="mixed_float16", **change)
    (pairing,) = compare([write_run.folder], metric="validation/loss").pairings
    assert pairing.parity is not None
    assert pairing.parity.outcome == "worse"


def test_a_metric_of_no_known_direction_is_different(write_run: Any) -> None:
    for seed in range(5):
        write_run(seed=seed, **{"metrics__final__validation/magic": 1.0 + seed / 1000})
        change = {"metrics__final__validation/magic": 2.0 + seed / 500}
        write_run(seed=seed, policy="mixed_float16", **change)
    result = compare([write_run.folder], metric="magic")
    assert result.higher_is_better is None
    assert result.target is None
    assert result.pairings[0].parity is not None
    assert result.pairings[0].parity.outcome == "different"


@pytest.mark.parametrize(
    ("tag", "mode", "expected"),
    [
        ("validation/accuracy", "auto", True),
        ("validation/loss", "auto", False),
        ("validation/loss", "max", True),
        ("validation/mean_absolute_error", "auto", False),
        ("validation/magic", "auto", None),
        ("validation/magic", "min", False),
    ],
)
def test_direction(tag: str, mode: str, expected: bool | None) -> None:
    assert parity.direction(tag, mode) is expected


def test_the_direction_that_the_runs_monitored(write_run: Any) -> None:
    monitored = {"metrics__best__name": "validation/magic", "metrics__final__validation/magic": 1.0}
    write_run(**monitored, config__monitor_mode="max")
    result = compare([write_run.folder])
    assert (result.metric, result.higher_is_better) == ("validation/magic", True)


def test_runs_that_monitored_another_metric_are_told(write_run: Any) -> None:
    for seed in range(2):
        write_run(seed=seed)
    write_run(policy="mixed_float16", metrics__best__name="validation/loss")
    result = compare([write_run.folder])
    assert result.metric == "validation/accuracy"
    note = "1 of 3 runs monitored validation/loss, not validation/accuracy: --metric chooses"
    assert result.notes == [note]
    assert compare([write_run.folder], metric="accuracy").notes == []


def test_runs_that_ended_with_nan_prove_nothing(write_run: Any) -> None:
    found = judged(write_run, [*BASE, "NaN"], [*BASE, 0.97])
    assert found.outcome == "unclear"
    assert "1 run ended with NaN or Infinity" in found.text


def test_other_data_are_not_compared(write_run: Any) -> None:
    write_run()
    write_run(policy="mixed_float16", data__fingerprint="b" * 64)
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.parity is None
    assert "accuracy is not compared: other data" in pairing.notes


def test_a_metric_that_no_run_has(write_run: Any) -> None:
    write_run()
    with pytest.raises(ConfigurationError, match="No run recorded accuracie") as caught:
        compare([write_run.folder], metric="accuracie")
    assert "validation/accuracy" in caught.value.allowed


def test_runs_without_any_metric_are_compared_in_speed(write_run: Any) -> None:
    for seed in range(3):
        for policy, speed in (("float32", 1000 + seed), ("mixed_bfloat16", 1500 + 2 * seed)):
            write_run(seed=seed, policy=policy, speed=speed, metrics={})
    result = compare([write_run.folder])
    assert result.metric is None
    assert result.pairings[0].speed == "faster"
    assert result.verdicts[0].sentence.endswith("no metric compared")


def test_time_to_the_baselines_best_less_the_margin(write_run: Any, learning: Any) -> None:
    for seed, accuracy in enumerate((0.96, 0.98, 0.97)):
        write_run(seed=seed, accuracy=accuracy, rows=learning(accuracy, count=100))
    result = compare([write_run.folder])
    (group,) = result.groups
    assert result.target == pytest.approx(0.97 - 0.005)
    assert "less the margin" in result.target_source
    assert group.seconds_to_target is not None
    # One never came so far; 0.98 k / 100 is 0.965 at the 99th row, 0.97 k / 100 at the 100th.
    assert group.seconds_to_target.values == (99.0, 100.0)


def test_time_to_a_target_that_is_asked_for(write_run: Any, learning: Any) -> None:
    write_run(accuracy=0.9, rows=learning(0.9))
    write_run(policy="mixed_float16", rows=learning(0.9, validation_accuracy=1))
    result = compare([write_run.folder], target=0.5)
    assert (result.target, result.target_source) == (0.5, "--target")
    assert [g.seconds_to_target.values for g in result.groups if g.seconds_to_target] == [
        (6.0,)
    ] * 2
    assert compare([write_run.folder], target=2.0).groups[0].seconds_to_target is None


def test_the_target_of_a_loss_is_above_its_best(write_run: Any, learning: Any) -> None:
    tag = "validation/loss"
    rows = learning(0.9)
    for row in rows:
        row[tag] = 1.0 - 0.05 * row["wall_seconds"]
    best = {"metrics__best__name": tag, "metrics__best__value": 0.5}
    write_run(rows=rows, **best, **{f"metrics__final__{tag}": 0.5})
    result = compare([write_run.folder], margin=20)
    assert result.target == pytest.approx(0.5 * 1.2)
    (group,) = result.groups
    assert group.seconds_to_target is not None
    assert group.seconds_to_target.values == (8.0,)


def test_each_baseline_has_its_target(write_run: Any) -> None:
    for model, accuracy in (("cnn", 0.9), ("mlp", 0.8)):
        for policy in ("float32", "mixed_float16"):
            write_run(policy=policy, config__model__name=model, metrics__best__value=accuracy)
    result = compare([write_run.folder])
    assert result.target is None
    assert [group.target for group in result.groups] == pytest.approx([0.895, 0.795, 0.895, 0.795])
