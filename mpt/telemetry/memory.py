"""Memory.

Tags:
    memory/device_peak_bytes: most memory that tensors held on the GPU since the start, bytes.
    memory/device_in_use_bytes: what they hold now, bytes.
    memory/host_rss_bytes: resident set of this process, bytes.

A CPU has no allocator that tells, so the first two are absent there.
"""

from mpt import device, report
from mpt.telemetry.window import Window


def tags(window: Window) -> dict[str, float]:
    """This module's tags, read now."""
    measured = device.device_memory()
    values = {
        "memory/device_peak_bytes": measured["peak"],
        "memory/device_in_use_bytes": measured["in_use"],
        "memory/host_rss_bytes": device.host_rss()[0],
    }
    return {tag: float(value) for tag, value in values.items() if value is not None}


def summary() -> report.Memory:
    """The report's `memory`."""
    measured = device.device_memory()
    return report.Memory(
        device_peak_bytes=measured["peak"],
        device_in_use_bytes=measured["in_use"],
        host_rss_peak_bytes=device.host_rss()[1],
    )
