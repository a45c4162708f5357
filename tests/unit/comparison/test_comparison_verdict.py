"""The verdict is a sentence, and never stronger than the evidence."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from mpt.comparison import Verdict, compare

ACCURACY = (0.970, 0.972, 0.969, 0.971, 0.973)


def verdict(write_run: Any, seeds: int = 5, **policies: dict[str, Any]) -> Verdict:
    """Of runs of float32 and of `policies`, each with ratios of speed and memory, and changes."""
    everything = {"float32": {}, **policies}
    for seed in range(seeds):
        for policy, given in everything.items():
            given = dict(given)
            noise = 1 + 0.002 * ((seed * 7 + len(policy)) % 5)
            change = {
                "speed": 1000 * given.pop("ratio", 1.0) * noise,
                "memory__device_peak_bytes": int(1e9 * given.pop("memory", 1.0)),
                "accuracy": ACCURACY[seed] + given.pop("shift", 0.0),
            }
            only = given.pop("only_seed", None)
            write_run(seed=seed, policy=policy, **change, **(given if only in (None, seed) else {}))
    (found,) = compare([write_run.folder]).verdicts
    return found


DIVERGED = {
    "status": "diverged",
    "exit_code": 3,
    "reason": {"rule": "max_consecutive_skips", "step": 120, "message": ""},
    "only_seed": 2,
}


def test_faster_leaner_and_as_good(write_run: Any) -> None:
    found = verdict(write_run, mixed_bfloat16={"ratio": 1.8, "memory": 0.59})
    assert found.sentence == (
        "use mixed_bfloat16: 1.8 times faster, 41% less memory, accuracy the same within seed noise"
    )
    assert found.recommended == "mixed_bfloat16"
    assert any("95% interval" in reason for reason in found.reasons)


def test_few_seeds_are_said(write_run: Any) -> None:
    found = verdict(write_run, seeds=3, mixed_bfloat16={"ratio": 1.8, "memory": 0.59})
    assert found.sentence == (
        "no answer yet on mixed_bfloat16: 1.8 times faster, 41% less memory, "
        "accuracy: not enough seeds to say (3 of 5)"
    )
    assert found.recommended is None


def test_one_run_is_said(write_run: Any) -> None:
    found = verdict(write_run, seeds=1, mixed_bfloat16={"ratio": 1.8})
    assert "1.8 times faster in one run each, which measures no spread" in found.sentence
    assert found.recommended is None


def test_a_speed_that_is_unclear_is_told_with_its_interval(write_run: Any) -> None:
    speeds = (3000, 900, 1500)
    for seed, ours in enumerate(speeds):
        write_run(seed=seed)
        write_run(seed=seed, speed=ours, policy="mixed_bfloat16")
    (found,) = compare([write_run.folder]).verdicts
    assert found.recommended is None
    logs = np.log(np.divide(speeds, 1000))
    low, high = np.exp(stats.ttest_1samp(logs, 0).confidence_interval(0.95))
    assert f"speed unclear (1.59 times, {low:.2f} to {high:.2f})" in found.sentence


def test_no_verdict_on_speed_is_said(write_run: Any) -> None:
    found = verdict(write_run, mixed_bfloat16={"ratio": 1.8, "device__concurrent_jobs": 3})
    assert "no verdict on speed: the jobs of mixed_bfloat16 shared a machine" in found.sentence
    assert found.recommended is None


def test_slower_is_refused_with_the_reason(write_run: Any) -> None:
    found = verdict(write_run, mixed_float16={"ratio": 0.5, "device__float16_units": False})
    assert found.sentence == (
        "stay with float32: mixed_float16 is 2 times slower, with the same memory"
    )
    assert found.recommended == "float32"
    assert any("no units" in reason for reason in found.reasons)


def test_a_failure_rules_it_out_however_fast(write_run: Any) -> None:
    found = verdict(write_run, mixed_float16={"ratio": 3.0, **DIVERGED})
    assert found.sentence == (
        "stay with float32: mixed_float16 failed in 1 of 5 runs "
        "(diverged: max_consecutive_skips at step 120)"
    )


def test_the_one_that_fails_is_passed_over(write_run: Any) -> None:
    found = verdict(
        write_run, mixed_float16={"ratio": 3.0, **DIVERGED}, mixed_bfloat16={"ratio": 1.5}
    )
    assert found.recommended == "mixed_bfloat16"
    assert any("mixed_float16: 1 of 5 runs failed" in reason for reason in found.reasons)


def test_an_interruption_by_hand_rules_nothing_out(write_run: Any) -> None:
    interrupted = {**DIVERGED, "status": "interrupted", "exit_code": 130, "only_seed": 5}
    for seed in (5, 6):
        write_run(seed=seed, speed=1000 + seed, accuracy=0.97)
    write_run(seed=6, policy="mixed_bfloat16", accuracy=0.97, speed=1500.0)
    interrupted.pop("only_seed")
    write_run(seed=5, policy="mixed_bfloat16", **interrupted)
    found = verdict(write_run, mixed_bfloat16={"ratio": 1.5})
    assert found.recommended == "mixed_bfloat16"
    assert any("interrupted" in reason for reason in found.reasons)


def test_a_worse_metric_is_refused_however_fast(write_run: Any) -> None:
    found = verdict(write_run, mixed_float16={"ratio": 3.0, "shift": -0.1})
    assert found.sentence == "stay with float32: mixed_float16 has a worse accuracy"


def test_memory_alone_is_a_reason(write_run: Any) -> None:
    found = verdict(write_run, mixed_bfloat16={"memory": 0.5})
    assert found.sentence.startswith("use mixed_bfloat16: as fast, 50% less memory")


def test_neither_faster_nor_leaner_is_no_reason(write_run: Any) -> None:
    found = verdict(write_run, mixed_bfloat16={"memory": 0.99})
    assert found.sentence == ("stay with float32: mixed_bfloat16 is as fast, with the same memory")


def test_a_better_metric_is_a_reason_and_not_one_against(write_run: Any) -> None:
    found = verdict(write_run, tf32={"shift": 0.02})
    assert found.sentence == "use tf32: as fast, the same memory, accuracy better"


def test_slower_and_better_is_for_the_reader_to_weigh(write_run: Any) -> None:
    found = verdict(write_run, mixed_float16={"ratio": 0.5, "shift": 0.02})
    assert found.recommended is None
    assert found.sentence.startswith("a trade between float32 and mixed_float16: 2 times slower")


@pytest.mark.parametrize(("ratio", "expected"), [(1.51, "mixed_bfloat16"), (1.8, "mixed_float16")])
def test_of_those_as_fast_the_wider(write_run: Any, ratio: float, expected: str) -> None:
    found = verdict(write_run, mixed_float16={"ratio": ratio}, mixed_bfloat16={"ratio": 1.5})
    assert found.recommended == expected


def test_a_baseline_that_never_ended_proves_nothing(write_run: Any) -> None:
    write_run(status="oom", exit_code=4)
    write_run(policy="mixed_float16")
    (found,) = compare([write_run.folder]).verdicts
    assert found.sentence == "no answer: no run of the baseline, float32, came to its end"


def test_other_settings_are_said(write_run: Any) -> None:
    found = verdict(write_run, mixed_bfloat16={"ratio": 1.8, "config__trainer__steps": 7})
    assert found.sentence.endswith(", but it differs in trainer.steps too")


def test_host_memory_is_told_where_the_devices_was_not_measured(write_run: Any) -> None:
    for seed in range(2):
        write_run(seed=seed)
        write_run(seed=seed, policy="tf32", memory__host_rss_peak_bytes=2**31)
    (found,) = compare([write_run.folder]).verdicts
    assert "100% more host memory" in found.sentence
