"""The peaks that vendors promise."""

from dataclasses import replace

import pytest

from mpt.datasheets import datasheet_peak
from mpt.device import Device

H100 = Device("gpu", "NVIDIA H100 80GB HBM3", 1, (9, 0), "555", True, True, 80 * 2**30)


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 80GB HBM3", "tf32", 494.5),
        ("NVIDIA H100 PCIe", "float16", 756),
        ("NVIDIA H200", "float32", 67),
        ("NVIDIA A100-SXM4-40GB", "float32", 19.5),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312),
        ("NVIDIA A10", "float16", 125),
        ("NVIDIA A10G", "float16", None),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("Tesla T4", "float16", 65),
        ("Tesla T4", "bfloat16", None),
        ("Tesla V100-SXM2-16GB", "float16", 125),
        ("Tesla V100-SXM2-16GB", "tf32", None),
        ("Some Card", "float32", None),
        ("NVIDIA A100-SXM4-40GB", "float8", None),
    ],
)
def test_datasheet_peaks(name, dtype, teraflops):
    expected = None if teraflops is None else teraflops * 1e12
    assert datasheet_peak(replace(H100, name=name), dtype) == expected


def test_a_cpu_has_no_datasheet_peak():
    assert datasheet_peak(replace(H100, kind="cpu"), "float32") is None
