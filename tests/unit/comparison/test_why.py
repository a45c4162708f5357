"""Why 16 bits were not faster, each reason with its number."""

from typing import Any

import pytest

from mpt.comparison import compare

BN = [{"path": f"b{i}", "class": "BatchNormalization"} for i in range(3)]


def reasons(
    write_run: Any,
    ours: dict[str, Any],
    base: dict[str, Any],
    *,
    policy: str = "mixed_bfloat16",
    ratio: float = 1.0,
) -> list[str]:
    for seed in range(3):
        write_run(seed=seed, speed=1000 + seed, **base)
        write_run(seed=seed, speed=ratio * (1000 + 2 * seed), policy=policy, **ours)
    (pairing,) = compare([write_run.folder]).pairings
    return pairing.why_not_faster


@pytest.mark.parametrize(
    ("ours", "base", "said"),
    [
        (
            {"throughput__data_wait_fraction": 0.43},
            {"throughput__data_wait_fraction": 0.15},
            "bound by input: it waits for data 43% of the time, float32 15%",
        ),
        (
            {"throughput__data_wait_fraction": None},
            {"throughput__data_wait_fraction": 0.3},
            "bound by input: it waits for data not measured of the time, float32 30%",
        ),
        ({"device__bfloat16_units": False}, {}, "no units: EPYC has no instructions"),
        ({"compute__utilization": 0.03}, {}, "too small: its arithmetic takes 3.0%"),
        ({"throughput__step_time_ms__median": 0.4}, {}, "too small: a step takes 0.4 ms"),
        ({"compute__float32_flops_fraction": 0.34}, {}, "34% of the forward pass's FLOPs"),
        ({"compute__cast_bytes_per_example": 2**20}, {}, "casts: 1 MiB an example"),
        (
            {"precision__fused_batch_norm": False, "precision__table": BN},
            {},
            "3 BatchNormalization layers run unfused",
        ),
        ({"execution__jit_compile": True}, {}, "XLA is on here and off for float32"),
    ],
)
def test_reasons(write_run: Any, ours: dict[str, Any], base: dict[str, Any], said: str) -> None:
    (reason,) = reasons(write_run, ours, base)
    assert reason.startswith(said)


def test_tf32_in_the_baseline(write_run: Any) -> None:
    gpu = {"device__kind": "gpu", "device__name": "A100", "device__compute_capability": [8, 0]}
    (reason,) = reasons(write_run, gpu, {**gpu, "precision__tf32": True})
    assert reason.startswith("the baseline has TF32 on")


F8_ROWS = [
    {"path": "a", "class": "Dense", "quantization": "float8"},
    {"path": "b", "class": "EinsumDense", "quantization": "float8"},
    {"path": "head", "class": "Dense"},
]


@pytest.mark.parametrize(
    ("capability", "jit", "said"),
    [
        (None, False, "float8: Keras rounds to it and multiplies in bfloat16, and EPYC has no"),
        ([8, 0], True, "float8: Keras rounds to it and multiplies in bfloat16, and EPYC has no"),
        ([8, 9], False, "float8: Keras rounds to it and multiplies in bfloat16: only XLA"),
        ([9, 0], True, "nothing that was measured explains it"),
    ],
)
def test_float8_beside_bfloat16(
    write_run: Any, capability: list[int] | None, jit: bool, said: str
) -> None:
    device = {"device__compute_capability": capability, "execution__jit_compile": jit}
    float8 = {"precision__requested": "float8", "precision__table": F8_ROWS}
    for seed in range(3):
        write_run(seed=seed, speed=1000 + seed, policy="mixed_bfloat16", **device)
        write_run(
            seed=seed,
            speed=1000 + 2 * seed,
            policy="mixed_bfloat16",
            **device,
            **float8,
            config__precision__policy="float8",
        )
    found = compare([write_run.folder])
    (pairing,) = found.pairings
    assert (pairing.group.label, pairing.baseline.label) == ("float8", "mixed_bfloat16")
    (reason,) = pairing.why_not_faster
    assert reason.startswith(said)
    assert "float8: products of 1 Dense, 1 EinsumDense of 3 layers are in float8" in found.notes[0]


@pytest.mark.parametrize(
    ("capability", "policy", "expected"),
    [
        ([7, 0], "mixed_bfloat16", True),
        ([7, 0], "mixed_float16", False),
        ([6, 1], "mixed_float16", True),
        ([8, 6], "mixed_bfloat16", False),
    ],
)
def test_units_of_an_older_reports_gpu(
    write_run: Any, capability: list[int], policy: str, expected: bool
) -> None:
    gpu = {"device__kind": "gpu", "device__name": "V", "device__compute_capability": capability}
    (reason,) = reasons(write_run, gpu, gpu, policy=policy)
    assert reason.startswith("no units") is expected


def test_the_most_important_comes_first(write_run: Any) -> None:
    ours = {
        "compute__float32_flops_fraction": 0.5,
        "compute__utilization": 0.01,
        "device__float16_units": False,
        "throughput__data_wait_fraction": 0.9,
    }
    found = reasons(write_run, ours, {}, policy="mixed_float16", ratio=0.5)
    assert [each.split(" ")[0] for each in found] == ["bound", "no", "too", "50%"]


def test_what_was_measured_and_is_fine_explains_nothing(write_run: Any) -> None:
    fine = {
        "device__bfloat16_units": True,
        "compute__utilization": 0.4,
        "compute__float32_flops_fraction": 0.01,
        "compute__cast_bytes_per_example": 100,
        "precision__fused_batch_norm": False,
    }
    assert reasons(write_run, fine, {}) == ["nothing that was measured explains it"]


def test_what_is_faster_or_may_be_or_is_not_16_bits_needs_no_reason(write_run: Any) -> None:
    slow_input = {"throughput__data_wait_fraction": 0.9}
    assert reasons(write_run, slow_input, {}, ratio=1.5) == []


def test_float32_needs_no_reason(write_run: Any) -> None:
    slow_input = {"throughput__data_wait_fraction": 0.9}
    assert reasons(write_run, slow_input, {}, policy="tf32") == []


def test_one_run_that_may_be_faster_needs_no_reason(write_run: Any) -> None:
    write_run(speed=1000)
    write_run(speed=1500, policy="mixed_bfloat16", throughput__data_wait_fraction=0.9)
    assert compare([write_run.folder]).pairings[0].why_not_faster == []


def test_of_one_dtype_neither_can_be_faster_for_it(write_run: Any) -> None:
    slow_input = {"throughput__data_wait_fraction": 0.9}
    for seed in range(2):
        write_run(seed=seed, policy="mixed_bfloat16", speed=1000 + seed)
        write_run(seed=seed, policy="bfloat16", speed=1000 + 2 * seed, **slow_input)
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.why_not_faster == []


def test_tf32_explains_nothing_where_the_baseline_computes_in_16_bits(write_run: Any) -> None:
    gpu = {"device__kind": "gpu", "device__compute_capability": [8, 0], "precision__tf32": True}
    for seed in range(2):
        write_run(seed=seed, policy="mixed_bfloat16", speed=1000 + seed, **gpu)
        write_run(seed=seed, policy="mixed_float16", speed=1000 + 2 * seed, **gpu)
    (pairing,) = compare([write_run.folder]).pairings
    assert pairing.why_not_faster == ["nothing that was measured explains it"]
