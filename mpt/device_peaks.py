"""What the device can do at the most, by dtype: `mpt doctor --peaks`."""

import json
from pathlib import Path
from typing import Any

from mpt import device as devices
from mpt import errors, report, tuning_cache
from mpt.console import Console
from mpt.device import Device
from mpt.preparation import prepare_device
from mpt.printable import columns
from mpt.report.numbers import count, size
from mpt.schema import TrainConfig
from mpt.telemetry.peaks import bandwidth, convolution_peak, keep_matmul_peak, matmul_peak

NOT_THERE = "-"
TF32 = "tf32"


def run(
    config: TrainConfig,
    run_dir: Path,
    *,
    command: list[str],
    verbosity: int = 0,
    allow: tuple[str, ...] = (),
    composed: dict[str, str],
    as_json: bool = False,
) -> int:
    """Measure the device that `config` chooses, and tell; the rates of products are kept.

    Args:
        run_dir, command, allow, composed: of a job; they are not used.
        verbosity: -1 quiet, 0 normal, 1 verbose.
        as_json: print one JSON object on stdout, and nothing else there.

    Returns:
        0.

    Raises:
        ConfigurationError: there is no such device.
    """
    console = Console(verbosity)
    device = prepare_device(config)
    cache = tuning_cache.opened(device, wanted=config.device.tuning_cache)
    content: dict[str, Any] = {"kind": device.kind, "name": device.name, "peaks": {}}
    for dtype in dtypes(device):
        console.detail(f"measuring {dtype}")
        rates = content["peaks"][dtype] = measured(dtype)
        peak, tf32 = rates["matmul_flops_per_second"], dtype == TF32
        keep_matmul_peak(peak, _kind(dtype), cache, tf32=tf32)
    if as_json:
        print(json.dumps(report.encode(content), indent=2, allow_nan=False))
    else:
        show(content)
    return errors.OK


def dtypes(device: Device) -> list[str]:
    """What to measure, with TensorFloat-32 as one of them where the device has it."""
    return ["float32", *([TF32] if device.has_tf32 else []), "bfloat16", "float16"]


def measured(dtype: str) -> dict[str, float | None]:
    """The highest rates in one dtype; None where the device has none."""
    devices.set_tf32(dtype == TF32)
    kind = _kind(dtype)
    return {
        "matmul_flops_per_second": matmul_peak(kind),
        "convolution_flops_per_second": convolution_peak(kind),
        "bandwidth_bytes_per_second": bandwidth(kind),
    }


def _kind(dtype: str) -> str:
    return "float32" if dtype == TF32 else dtype


def show(content: dict[str, Any]) -> None:
    """Print the rates, and each in relation to float32's."""
    print(f"device    {content['kind']}: {content['name']}\n")
    rows = [("dtype", "matrix product", "convolution", "adding arrays")]
    wide = content["peaks"]["float32"]
    for dtype, rates in content["peaks"].items():
        cells = [
            NOT_THERE
            if value is None
            else (f"{size(value)}/s" if "bytes" in name else count(value, "FLOP/s"))
            + _ratio(value, wide[name], dtype)
            for name, value in rates.items()
        ]
        rows.append((dtype, *cells))
    print("\n".join(columns(rows)))


def _ratio(value: float, wide: float | None, dtype: str) -> str:
    return "" if dtype == "float32" or not wide else f" ({value / wide:.2f}x)"
