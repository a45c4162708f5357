"""What vendors promise of their cards."""

from __future__ import annotations

import re

from mpt.device import Device

# Dense peaks in TFLOP/s, from the vendor's datasheets; matrix units where the card has them.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"H200 NVL", {"float64": 60, "float32": 60, "tf32": 417.5, "float16": 835.5}),
    (r"H200", {"float64": 67, "float32": 67, "tf32": 494.5, "float16": 989.5}),
    (r"H100 NVL", {"float64": 60, "float32": 60, "tf32": 417.5, "float16": 835.5}),
    (r"H100 PCIe", {"float64": 51, "float32": 51, "tf32": 378, "float16": 756}),
    (r"H100", {"float64": 67, "float32": 67, "tf32": 494.5, "float16": 989.5}),
    (r"A100", {"float64": 19.5, "float32": 19.5, "tf32": 156, "float16": 312}),
    (r"A30\b", {"float64": 10.3, "float32": 10.3, "tf32": 82, "float16": 165}),
    (r"A40\b", {"float32": 37.4, "tf32": 74.8, "float16": 149.7}),
    (r"A10\b", {"float32": 31.2, "tf32": 62.5, "float16": 125}),
    (r"L40S", {"float32": 91.6, "tf32": 183, "float16": 362}),
    (r"L40\b", {"float32": 90.5, "tf32": 90.5, "float16": 181}),
    (r"L4\b", {"float32": 30.3, "tf32": 60, "float16": 121}),
    (r"T4\b", {"float32": 8.1, "float16": 65}),
    (r"V100.*PCI", {"float64": 7, "float32": 14, "float16": 112}),
    (r"V100", {"float64": 7.8, "float32": 15.7, "float16": 125}),
    (r"P100", {"float64": 4.7, "float32": 9.3, "float16": 18.7}),
)
_AMPERE_UP = re.compile(r"H200|H100|A100|A30|A40|A10|L40|L4\b")


def datasheet_peak(device: Device, dtype: str) -> float | None:
    """Dense peak of one device, FLOP/s, from the vendor's datasheet.

    Args:
        device: what `prepare` returned.
        dtype: a compute dtype (float64, float32, float16, bfloat16), or tf32.

    Returns:
        None where it is not known (every CPU, and cards not listed). Sources: NVIDIA's
        datasheets of P100, V100, T4, A10, A30, A40, A100, L4, L40, L40S, H100 and H200, the
        figures without sparsity.
    """
    if device.kind != "gpu":
        return None
    for pattern, peaks in _PEAKS:
        if re.search(pattern, device.name, re.IGNORECASE):
            if dtype == "bfloat16":
                peak = peaks["float16"] if _AMPERE_UP.search(device.name) else None
            else:
                peak = peaks.get(dtype)
            return None if peak is None else peak * 1e12
    return None
