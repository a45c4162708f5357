"""Speed-ups, over many random draws, and when there must be none."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from mpt.comparison import compare, speed
from mpt.comparison.result import Group, Interval, Pairing, Run
from mpt.report import RunReport, Throughput

DRAWS = 400


def group(speeds: Any, label: str = "float32") -> Group:
    runs = []
    for seed, each in enumerate(speeds):
        report = RunReport("0", "n", [], "", {"seed": seed}, status="completed")
        report.throughput = Throughput(examples_per_second=float(each))
        runs.append(Run(None, report))  # type: ignore[arg-type]
    return Group(label, label, {}, "float32", "cpu", 128, False, runs)


def noisy(random: Any, factor: float, drift: Any, seeds: int) -> Any:
    """Runs of 2% noise on a machine that drifts, and now and then is slow."""
    slow = np.where(random.random(seeds) < 0.05, 0.8, 1.0)
    return 1000 * factor * drift * slow * np.exp(random.normal(0, 0.02, seeds))


def outcomes(factor: float, seeds: int = 5) -> dict[str, int]:
    random = np.random.default_rng(7)
    counted = dict.fromkeys(("faster", "slower", "same", "unclear"), 0)
    for _ in range(DRAWS):
        drift = np.exp(random.normal(0, 0.1, seeds))
        pairing = Pairing(
            group(noisy(random, factor, drift, seeds)), group(noisy(random, 1.0, drift, seeds))
        )
        speed.judge(pairing)
        counted[pairing.speed] += 1
    return counted


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_same_policy_twice_is_not_faster(seeds: int) -> None:
    counted = outcomes(1.0, seeds)
    assert counted["faster"] <= 0.025 * DRAWS
    assert counted["slower"] <= 0.025 * DRAWS


def test_a_slow_down_of_a_tenth_is_seen() -> None:
    counted = outcomes(0.9)
    assert counted["faster"] == 0
    assert counted["same"] == 0
    assert counted["slower"] >= 0.6 * DRAWS  # a slow run in twenty spoils some
    assert outcomes(1.8)["faster"] >= 0.97 * DRAWS


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (1.5, 1.4, 1.6, "faster"),
        (0.8, 0.7, 0.9, "slower"),
        (1.015, 1.01, 1.019, "same"),  # sure, and too little
        (1.015, 1.005, 1.025, "same"),
        (1.0, 0.96, 1.04, "same"),
        (1.0, 0.9, 1.1, "unclear"),
        (0.98, 0.94, 1.02, "unclear"),
        (1.1, 0.9, 1.3, "unclear"),
        (1.8, None, None, "unclear"),
    ],
)
def test_outcome(estimate: float, low: Any, high: Any, expected: str) -> None:
    assert speed.outcome(Interval(estimate, low, high, 0.95, 5, True)) == expected


def test_the_ratio_is_of_geometric_means() -> None:
    pairing = Pairing(group([200.0, 800.0]), group([100.0, 100.0]))
    speed.judge(pairing)
    assert pairing.speedup is not None
    assert pairing.speedup.estimate == pytest.approx(4.0)


def test_one_run_each_says_that_it_measures_no_spread(write_run: Any) -> None:
    write_run(speed=1000)
    write_run(speed=1800, policy="mixed_bfloat16")
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.speedup is not None
    assert pairing.speedup.estimate == pytest.approx(1.8)
    assert pairing.speedup.low is None
    assert pairing.speed == "unclear"
    assert "no spread" in pairing.speed_text


def pair_of(write_run: Any, baseline: dict[str, Any], other: dict[str, Any]) -> Pairing:
    for seed in range(3):
        write_run(seed=seed, speed=1000 + seed, **baseline)
        write_run(seed=seed, speed=1800 - seed, policy="mixed_bfloat16", **other)
    (pairing,) = compare([write_run.folder]).pairings
    return pairing


def test_runs_that_were_alone_are_compared(write_run: Any) -> None:
    pairing = pair_of(write_run, {}, {})
    assert (pairing.speed, pairing.group.concurrent) == ("faster", False)
    assert pairing.speed_text.startswith("1.80 times as fast as float32 (95% interval 1.7")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"device__concurrent_jobs": 2}, "shared a machine"),
        ({"device__name": "Xeon"}, "other devices"),
        ({"data__fingerprint": "b" * 64}, "other data"),
        ({"training__batch_size": 256}, "other batch sizes, 256 and 128"),
        ({"training__batch_size": None}, "other batch sizes, not recorded"),
        ({"throughput__examples_per_second": None}, "none of mixed_bfloat16 was measured"),
    ],
)
def test_no_verdict_with_the_reason(write_run: Any, other: dict[str, Any], reason: str) -> None:
    pairing = pair_of(write_run, {}, other)
    assert pairing.speedup is None
    assert pairing.speed == "none"
    assert reason in pairing.speed_text


def test_the_largest_batches_are_compared_though_they_differ(write_run: Any) -> None:
    largest = {"config__batch_size": "max"}
    pairing = pair_of(write_run, largest, {**largest, "training__batch_size": 256})
    assert pairing.speed == "faster"
    assert "batch sizes 256 and 128, each the largest that fits" in pairing.notes


def test_runs_that_overlap_on_a_host_shared_it(write_run: Any) -> None:
    unknown = {"device__concurrent_jobs": None}
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def times(seconds: float) -> dict[str, str]:
        start = at + timedelta(seconds=seconds)
        return {
            "started_at": start.isoformat(),
            "ended_at": (start + timedelta(seconds=60)).isoformat(),
        }

    write_run(**unknown, **times(0))
    write_run(**unknown, **times(30), policy="mixed_bfloat16")
    (pairing,) = compare([write_run.folder]).pairings
    assert "shared a machine" in pairing.speed_text
    assert pairing.group.concurrent
    assert pairing.baseline.concurrent


@pytest.mark.parametrize("change", [{"environment__host": "there"}, {"device__concurrent_jobs": 1}])
def test_runs_at_one_time_on_two_machines_did_not_share_one(write_run: Any, change: Any) -> None:
    times = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:10:00Z"}
    write_run(**times, device__concurrent_jobs=change.get("device__concurrent_jobs"))
    write_run(**times, policy="mixed_bfloat16", **change)
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.speedup is not None


def test_runs_one_after_another_did_not_share_it(write_run: Any) -> None:
    unknown = {"device__concurrent_jobs": None}
    write_run(**unknown, started_at="2026-01-01T00:00:00Z", ended_at="2026-01-01T00:01:00Z")
    write_run(
        **unknown,
        started_at="2026-01-01T00:01:00Z",
        ended_at="2026-01-01T00:02:00Z",
        policy="mixed_bfloat16",
    )
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.speedup is not None
