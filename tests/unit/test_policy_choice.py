from dataclasses import replace

import pytest

from mpt.device import Device
from mpt.errors import ConfigurationError
from mpt.policy_choice import choose
from mpt.schema import POLICIES

CPU = Device("cpu", "Some CPU", 1, None, None, False, False, 2**34)
CPU_BF16 = replace(CPU, bfloat16_units=True)


def gpu(major, minor):
    capability = (major, minor)
    return Device(
        "gpu", "Card", 1, capability, "555", capability >= (8, 0), capability >= (7, 0), 2**34
    )


@pytest.mark.parametrize(
    ("device", "policy", "word"),
    [
        (gpu(9, 0), "mixed_bfloat16", "9.0"),
        (gpu(8, 0), "mixed_bfloat16", "8.0"),
        (gpu(7, 5), "mixed_float16", "7.5"),
        (gpu(7, 0), "mixed_float16", "7.0"),
        (gpu(6, 1), "float32", "no tensor cores"),
        (replace(gpu(8, 0), compute_capability=None), "float32", "unknown"),
        (CPU_BF16, "mixed_bfloat16", "bfloat16 units"),
        (CPU, "float32", "no bfloat16 units"),
    ],
)
def test_auto_takes_what_the_device_is_fast_at_and_says_why(device, policy, word):
    choice = choose("auto", device, None)
    assert choice.policy == policy
    assert choice.requested == "auto"
    assert word in choice.reason
    assert choice.warnings == ()
    assert choice.tf32 == policy.startswith("mixed_")


@pytest.mark.parametrize(
    ("policy", "device", "words"),
    [
        ("mixed_float16", CPU, ("float16", "emulates", "CPU")),
        ("mixed_float16", CPU_BF16, ("float16", "emulates")),
        ("mixed_bfloat16", CPU, ("bfloat16", "emulates")),
        ("mixed_bfloat16", gpu(7, 5), ("bfloat16 tensor cores", "7.5")),
        ("mixed_float16", gpu(6, 1), ("float16 tensor cores", "6.1")),
        ("float16", gpu(8, 0), ("weights", "mixed_float16")),
        ("bfloat16", gpu(8, 0), ("weights", "mixed_bfloat16")),
        ("tf32", CPU, ("TensorFloat-32 has no effect",)),
        ("tf32", gpu(7, 5), ("TensorFloat-32 has no effect",)),
    ],
)
def test_a_choice_that_cannot_pay_runs_with_a_warning(policy, device, words):
    (warning,) = choose(policy, device, None).warnings
    for word in words:
        assert word in warning


@pytest.mark.parametrize(
    ("policy", "device"),
    [
        ("mixed_bfloat16", CPU_BF16),
        ("mixed_bfloat16", gpu(8, 6)),
        ("mixed_float16", gpu(7, 5)),
        ("float32", CPU),
        ("float64", CPU),
        ("tf32", gpu(8, 0)),
    ],
)
def test_a_choice_that_pays_has_no_warning(policy, device):
    assert choose(policy, device, None).warnings == ()


@pytest.mark.parametrize("policy", POLICIES)
def test_tf32_follows_the_policy_unless_it_is_set(policy):
    device = gpu(8, 0)
    expected = policy in ("auto", "tf32", "mixed_float16", "mixed_bfloat16", "float8")
    assert choose(policy, device, None).tf32 == expected
    assert choose(policy, device, True).tf32
    if policy != "tf32":
        assert not choose(policy, device, False).tf32


def test_tf32_is_float32_to_keras():
    choice = choose("tf32", gpu(8, 0), None)
    assert (choice.policy, choice.requested, choice.tf32) == ("float32", "tf32", True)


def test_contradiction_and_unknown_policy():
    with pytest.raises(ConfigurationError) as error:
        choose("tf32", CPU, False)
    assert error.value.where == "precision.tf32"
    with pytest.raises(ConfigurationError) as error:
        choose("mixed_flot16", CPU, None)
    assert error.value.where == "precision.policy"
    assert error.value.suggestion == "mixed_float16"
