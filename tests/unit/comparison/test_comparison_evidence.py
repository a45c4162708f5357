"""What is said is never stronger than what was measured."""

import math
from typing import Any

import pytest

from mpt.comparison import Comparison, Pairing, compare
from mpt.errors import ConfigurationError
from mpt.pages import tables

GIB = 2**30
GPU = {"device__kind": "gpu", "device__name": "A100", "memory__host_rss_peak_bytes": GIB}


def compared(
    write_run: Any,
    theirs: Any = (),
    ours: Any = (),
    *,
    base: dict[str, Any] | None = None,
    change: dict[str, Any] | None = None,
    **arguments: Any,
) -> Comparison:
    """Of (seed, examples a second) of float32 and of mixed_bfloat16, and changes of each."""
    for seed, speed in theirs or [(seed, 1000 + seed) for seed in range(5)]:
        write_run(seed=seed, speed=speed, **(base or {}))
    for seed, speed in ours or [(seed, 1000 + 2 * seed) for seed in range(5)]:
        write_run(seed=seed, speed=speed, policy="mixed_bfloat16", **(change or {}))
    return compare([write_run.folder], **arguments)


def pairing(*arguments: Any, **keywords: Any) -> Pairing:
    (found,) = compared(*arguments, **keywords).pairings
    return found


def sentence(*arguments: Any, **keywords: Any) -> str:
    (found,) = compared(*arguments, **keywords).verdicts
    return found.sentence


def test_an_interval_that_says_nothing_is_not_as_fast(write_run: Any) -> None:
    theirs = list(enumerate((1000, 2000, 500, 1500, 800)))
    ours = list(enumerate((1850, 900, 890, 800, 1020)))
    lean = {"memory__device_peak_bytes": GIB // 2}
    result = compared(write_run, theirs, ours, base={"memory__device_peak_bytes": GIB}, change=lean)
    assert result.pairings[0].speed == "unclear"
    assert result.verdicts[0].recommended is None
    assert result.verdicts[0].sentence.startswith("no answer yet on mixed_bfloat16: speed unclear")


def test_few_common_seeds_are_not_paired(write_run: Any) -> None:
    theirs = [(seed, 1000 + 20 * seed) for seed in range(5)]
    found = pairing(write_run, theirs, [(seed, 1500 + 20 * seed) for seed in range(3, 8)])
    assert found.speedup is not None
    assert (found.speedup.paired, found.speedup.count) == (False, 5)
    assert "5 runs, not paired" in found.speed_text
    assert found.parity is not None
    assert (found.parity.difference.paired, found.parity.difference.count) == (False, 5)


def test_runs_whose_seed_has_no_partner_are_told(write_run: Any) -> None:
    found = pairing(write_run, ours=[(seed, 1500 + seed) for seed in range(2, 8)])
    assert found.speedup is not None
    assert (found.speedup.paired, found.speedup.count, found.speedup.left_out) == (True, 3, 5)
    assert "3 pairs by seed, 5 runs left out" in found.speed_text
    assert found.parity is not None
    assert "3 of 5, 5 runs left out" in found.parity.text


def test_repeats_of_one_seed_measure_speed_and_no_metric(write_run: Any) -> None:
    theirs = [(0, speed) for speed in (1000, 1010, 1020, 1030, 1040)]
    found = pairing(write_run, theirs, [(0, 1.5 * speed) for _, speed in theirs])
    assert found.speedup is not None
    assert (found.speed, found.speedup.paired, found.speedup.count) == ("faster", False, 5)
    assert found.parity is not None
    assert found.parity.outcome == "not_enough_seeds"
    assert found.parity.text.endswith("1 of 5")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ([(0, 1000)], [(0, 1500)], "1.5 times faster in one run each, which"),
        ([(0, 1000), (1, 1001)], [(0, 1500)], "1.5 times faster with one run of mixed_bfloat16,"),
        ([(0, 1000)], [(0, 1500), (1, 1501)], "1.5 times faster with one run of float32, which"),
    ],
)
def test_one_run_is_said_of_the_side_that_has_it(
    write_run: Any, theirs: Any, ours: Any, said: str
) -> None:
    result = compared(write_run, theirs, ours)
    assert said in result.verdicts[0].sentence
    assert said.split("faster ")[1].rstrip(",").removesuffix(", which") in (
        result.pairings[0].speed_text
    )


def test_other_surroundings_are_in_the_sentence(write_run: Any) -> None:
    ours = [(seed, 1500 + seed) for seed in range(5)]
    change = {"environment__host": "there", "environment__tensorflow": "2.10"}
    said = sentence(write_run, ours=ours, change=change)
    assert said.startswith("use mixed_bfloat16")
    assert said.endswith(", but it differs in TensorFlow, host too")


@pytest.mark.parametrize(
    ("shift", "margin", "said"),
    [
        ((0, 0.001, -0.001, 0.001, 0), 0.5, "accuracy the same within seed noise"),
        ((0.003, 0.002, 0.003, 0.002, 0.003), 0.5, "accuracy the same within 0.5 points"),
        ((0, 0.001, -0.001, 0.001, 0), 0.1, "accuracy the same within 0.28 points"),
    ],
)
def test_seed_noise_is_said_only_of_seed_noise(
    write_run: Any, shift: Any, margin: float, said: str
) -> None:
    for seed, each in enumerate(shift):
        write_run(seed=seed, speed=1000 + seed, accuracy=0.97)
        write_run(seed=seed, speed=1500, policy="mixed_bfloat16", accuracy=0.97 + each)
    (found,) = compare([write_run.folder], margin=margin).verdicts
    assert found.sentence.endswith(said)


def test_a_p_value_is_never_none_at_all(write_run: Any) -> None:
    found = pairing(write_run)
    assert found.parity is not None
    assert found.parity.p_value == 0
    assert "p <0.0001" in found.parity.text


def test_memory_of_some_of_the_runs_says_of_how_many(write_run: Any) -> None:
    for seed in range(5):
        write_run(seed=seed, speed=1000 + seed, memory__device_peak_bytes=GIB)
        known = {"memory__device_peak_bytes": GIB // 2} if seed == 0 else {}
        write_run(seed=seed, speed=1000 + 2 * seed, policy="mixed_bfloat16", **known)
    (found,) = compare([write_run.folder]).verdicts
    assert found.recommended is None
    assert "50% less memory (measured in 1 of 5 runs)" in found.sentence


def test_host_memory_is_no_reason_on_a_gpu(write_run: Any) -> None:
    result = compared(write_run, base=GPU, change={**GPU, "memory__host_rss_peak_bytes": GIB // 2})
    (found,) = result.verdicts
    assert found.recommended is None
    assert found.sentence.startswith(
        "no answer yet on mixed_bfloat16: as fast, device memory not measured"
    )


def test_memory_that_is_not_known_is_not_the_same(write_run: Any) -> None:
    unknown = {"memory__host_rss_peak_bytes": None}
    said = sentence(write_run, base=unknown, change=unknown)
    assert said.startswith("no answer yet on mixed_bfloat16: as fast, memory not measured")


def test_slower_and_leaner_is_a_trade(write_run: Any) -> None:
    result = compared(
        write_run,
        ours=[(seed, 800 + seed) for seed in range(5)],
        base={"memory__device_peak_bytes": 10**9},
        change={"memory__device_peak_bytes": 6 * 10**8},
    )
    (found,) = result.verdicts
    assert found.recommended is None
    assert found.sentence == (
        "a trade between float32 and mixed_bfloat16: 1.2 times slower, 40% less memory, "
        "accuracy the same within seed noise"
    )


def test_an_accuracy_in_percent_is_no_share(write_run: Any) -> None:
    tag = "metrics__final__validation/accuracy"
    found = pairing(write_run, base={tag: 97.0}, change={tag: 96.8})
    assert found.parity is not None
    assert found.parity.margin == pytest.approx(0.005 * 97)
    assert found.parity.outcome == "same"
    assert "points" not in found.parity.text


def test_a_recommendation_says_what_it_does_not_count(write_run: Any) -> None:
    for name in ("x", "y"):
        (write_run.folder / name / ".hydra").mkdir(parents=True)
    result = compared(write_run, ours=[(seed, 1500 + seed) for seed in range(5)])
    (found,) = result.verdicts
    assert found.recommended == "mixed_bfloat16"
    assert found.sentence.endswith("; 2 folders without a readable report are not counted")


def test_data_that_are_not_recorded_are_not_other_data(write_run: Any) -> None:
    found = pairing(write_run, change={"data__fingerprint": None})
    assert found.speed_text == ("no verdict on speed: the data of mixed_bfloat16 are not recorded")
    assert found.parity is None
    assert "accuracy is not compared: the data of mixed_bfloat16 are not recorded" in found.notes
    assert not any("other data" in note for note in found.notes)
    assert found.differs_in == []


def test_batch_sizes_that_vary_are_not_unrecorded(write_run: Any) -> None:
    for seed in range(2):
        write_run(seed=seed)
        write_run(seed=seed, policy="mixed_bfloat16", training__batch_size=128 + seed)
    (found,) = compare([write_run.folder]).pairings
    assert "batch sizes varied and 128, not the same" in found.notes
    assert found.speed_text.endswith("other batch sizes, varied and 128")


def test_a_configuration_that_ran_twice_is_told(write_run: Any) -> None:
    for seed in (0, 1, 2, 2, 5, 5, 6, 6, 7, 7):
        write_run(seed=seed)
    write_run(seed=1, status="interrupted", exit_code=130)
    assert compare([write_run.folder]).notes == ["float32: seeds 2, 5 to 7 ran more than once"]


@pytest.mark.parametrize("name", ["margin", "target"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_margin_or_a_target_is_a_number(write_run: Any, name: str, value: float) -> None:
    write_run()
    with pytest.raises(ConfigurationError) as caught:
        compare([write_run.folder], **{name: value})
    assert caught.value.where == f"--{name}"


def test_each_group_tells_its_own_target(write_run: Any) -> None:
    for model, accuracy in (("cnn", 0.9), ("mlp", 0.8)):
        for policy in ("float32", "mixed_float16"):
            rows = [{"step": 1, "wall_seconds": 3.0, "validation/accuracy": accuracy}]
            best = {"metrics__best__value": accuracy}
            write_run(policy=policy, config__model__name=model, rows=rows, **best)
    table = tables.groups(compare([write_run.folder]))
    (index,) = [i for i, each in enumerate(table.columns) if each.key == "seconds_to_target"]
    assert [row[index].text for row in table.rows] == [
        "3 (to 0.895)",
        "3 (to 0.795)",
        "3 (to 0.895)",
        "3 (to 0.795)",
    ]
