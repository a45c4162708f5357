"""What --require asks for, and whether it is met."""

from typing import Any

import pytest

from mpt.comparison import Comparison, compare
from mpt.errors import ConfigurationError


def compared(write_run: Any, require: str, seeds: int = 5, **ours: Any) -> Comparison:
    for seed in range(seeds):
        write_run(seed=seed, speed=1000 + seed, memory__device_peak_bytes=1000)
        change = {"speed": 1500 + 3 * seed, "memory__device_peak_bytes": 600, **ours}
        write_run(seed=seed, policy="mixed_bfloat16", **change)
    return compare([write_run.folder], require=require)


@pytest.mark.parametrize(
    ("require", "met"),
    [
        ("speedup>=1.5", True),
        ("speedup>1.6", False),
        ("speedup <= 2", True),
        ("memory<=0.6", True),
        ("memory<0.6", False),
        ("host_memory<=1", True),
        ("parity", True),
        ("skipped<=0", True),
        ("failures<=0", True),
        ("failures<0", False),
        ("mixed_bfloat16:speedup>=1.2", True),
    ],
)
def test_one_requirement(write_run: Any, require: str, met: bool) -> None:
    (found,) = compared(write_run, require).requirements
    assert (found.text, found.met) == (require, met)
    assert found.detail.startswith("mixed_bfloat16: ")


def test_several(write_run: Any) -> None:
    found = compared(write_run, "speedup>=1.2,parity, memory<=0.5").requirements
    assert [(each.text, each.met) for each in found] == [
        ("speedup>=1.2", True),
        ("parity", True),
        ("memory<=0.5", False),
    ]
    assert found[2].detail == "mixed_bfloat16: 0.60 of the baseline's device memory"


@pytest.mark.parametrize(
    ("require", "ours", "detail"),
    [
        ("memory<=9", {"memory__device_peak_bytes": None}, "device memory was not measured"),
        ("skipped<=9", {"loss_scale__skipped_steps": None}, "skipped steps were not counted"),
        ("speedup>=0.1", {"device__concurrent_jobs": 2}, "no verdict on speed"),
        ("parity", {"data__fingerprint": "b" * 64}, "the metric was not compared"),
    ],
)
def test_what_was_not_measured_is_not_met(
    write_run: Any, require: str, ours: dict[str, Any], detail: str
) -> None:
    (found,) = compared(write_run, require, **ours).requirements
    assert not found.met
    assert detail in found.detail


def test_parity_needs_seeds(write_run: Any) -> None:
    (found,) = compared(write_run, "parity", seeds=4).requirements
    assert not found.met
    assert "not enough seeds to say: 4 of 5" in found.detail


def test_a_gain_that_its_interval_does_not_tell_from_none_is_not_met(write_run: Any) -> None:
    for seed, ours in enumerate((3000, 900, 1500)):
        write_run(seed=seed, speed=1000)
        write_run(seed=seed, speed=ours, policy="mixed_bfloat16")
    speedup, bounded = compare([write_run.folder], require="speedup>=1.2,speedup>=0.5").requirements
    assert not speedup.met
    assert bounded.met


def test_failures_and_lost_runs_count(write_run: Any) -> None:
    (write_run.folder / "lost" / ".hydra").mkdir(parents=True)
    write_run(seed=9, policy="mixed_bfloat16", status="oom", exit_code=4)
    (found,) = compared(write_run, "failures<=1").requirements
    assert not found.met
    assert found.detail == (
        "mixed_bfloat16: 1 of 6 runs failed (1 oom: exit code 4); "
        "1 without a report that can be read"
    )


def test_with_nothing_to_compare_nothing_is_met(write_run: Any) -> None:
    write_run()
    (found,) = compare([write_run.folder], require="failures<=0").requirements
    assert not found.met
    with pytest.raises(ConfigurationError, match="No group 'float16'"):
        compare([write_run.folder], require="float16:parity")


def test_every_group_must_meet_it(write_run: Any) -> None:
    for seed in range(3):
        write_run(seed=seed, speed=500.0 + seed, policy="mixed_float16")
    found = compared(write_run, "speedup>=1.2,mixed_bfloat16:memory<=0.6", seeds=3).requirements
    assert [each.met for each in found] == [True, False, True]


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ("speedup", "needs a comparison with a number"),
        ("speedup>=fast", "needs a comparison with a number"),
        ("sped>=1", "'sped' cannot be required"),
        ("parity>=1", "parity takes no number"),
        ("speedup==1", "is no requirement"),
        ("", "is no requirement"),
        ("parity,", "is no requirement"),
        ("speedup>=nan", "needs a comparison with a number"),
    ],
)
def test_a_bad_expression_is_refused_before_anything_is_read(require: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        compare(["no-such-folder"], require=require)
    assert caught.value.where == "--require"
    assert caught.value.allowed


def test_a_group_that_failed_has_no_gain_and_no_parity(write_run: Any) -> None:
    write_run(seed=9, policy="mixed_bfloat16", status="diverged", exit_code=3)
    found = compared(write_run, "speedup>=1.2,parity,memory<=0.9").requirements
    assert [each.met for each in found] == [False, False, True]
    for each in found[:2]:
        assert "1 of 6 runs failed (1 diverged: exit code 3)" in each.detail


@pytest.mark.parametrize(
    ("require", "met"), [("speedup>=1.2", False), ("speedup>1", False), ("speedup<=2", True)]
)
def test_one_run_each_is_no_gain(write_run: Any, require: str, met: bool) -> None:
    (found,) = compared(write_run, require, seeds=1).requirements
    assert found.met is met


def test_any_gain_needs_an_interval_above_one(write_run: Any) -> None:
    for seed, ours in enumerate((3000, 900, 1500)):
        write_run(seed=seed, speed=1000)
        write_run(seed=seed, speed=ours, policy="mixed_bfloat16")
    (found,) = compare([write_run.folder], require="speedup>1").requirements
    assert not found.met


def test_failures_of_the_baseline_count(write_run: Any) -> None:
    write_run(seed=9, status="oom", exit_code=4)
    (found,) = compared(write_run, "failures<=0").requirements
    assert not found.met
    assert "1 of 6 runs of float32 failed (1 oom: exit code 4)" in found.detail


def test_memory_of_few_of_the_runs_is_not_met(write_run: Any) -> None:
    for seed in range(4):
        write_run(seed=seed, memory__device_peak_bytes=1000)
        known = {"memory__device_peak_bytes": 500} if seed == 0 else {}
        write_run(seed=seed, policy="mixed_bfloat16", **known)
    device, host = compare([write_run.folder], require="memory<=0.6,host_memory<=1").requirements
    assert not device.met
    assert "device memory was measured in 1 of 4 runs" in device.detail
    assert host.met


def test_a_label_may_have_commas(write_run: Any) -> None:
    rules = [{"match": name, "policy": "float32"} for name in ("conv2d", "energy")]
    for seed in range(3):
        write_run(seed=seed, speed=1000 + seed)
        write_run(seed=seed, policy="mixed_float16", speed=1500 + seed)
        more = {"config__precision__overrides": rules}
        write_run(seed=seed, policy="mixed_float16", speed=1300 + seed, **more)
    label = "mixed_float16, float32: conv2d, energy"
    require = f"skipped<=0,{label}:speedup>=1.2,mixed_float16:speedup>=1.4"
    found = compare([write_run.folder], require=require).requirements
    assert {each.text for each in found} == {
        "skipped<=0",
        f"{label}:speedup>=1.2",
        "mixed_float16:speedup>=1.4",
    }
    met = {each.detail.split(":")[0]: each.met for each in found if "1.2" in each.text}
    assert met == {"mixed_float16, float32": True}


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ("foo,speedup>=1", "'foo' cannot be required"),
        ("a:skiped>=1,float32:speedup>=1", "'skiped' cannot be required"),
    ],
)
def test_what_is_before_a_comma_and_no_label_is_told_alone(require: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compare(["absent"], require=require)
