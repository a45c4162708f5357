"""Processor, memory and cards, from Linux's files and NVIDIA's management library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpt.device import Device, cores, parse_cpuinfo, read_text
from mpt.doctor.facts import Gpu, Hardware

# In the order of the table: TensorFlow's wheels need the first; the others multiply in 16 bits.
UNITS = ("avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16")
UNLIMITED = 2**60  # control groups of version 1 say so by a number near 2^63


def gather() -> Hardware:
    """Look at this machine."""
    name, flags = parse_cpuinfo(read_text("/proc/cpuinfo"))
    memory, available = _memory()
    gpus = cards()
    return Hardware(
        cpu=name,
        cores=cores(),
        units=tuple(unit for unit in UNITS if unit in flags),
        memory_bytes=memory,
        available_bytes=available,
        gpus=gpus,
        card_without_driver=not gpus and _on_the_bus(),
    )


def device(hardware: Hardware) -> Device:
    """What a run would compute on, as far as it is known without TensorFlow."""
    if not hardware.gpus:
        return Device.of_cpu(hardware.cpu, frozenset(hardware.units), hardware.memory_bytes)
    first = hardware.gpus[0]
    return Device.of_gpus(
        first.name,
        len(hardware.gpus),
        first.compute_capability,
        first.driver,
        first.memory_bytes,
    )


def cards() -> tuple[Gpu, ...]:
    """NVIDIA's cards that the driver lists; none where there is no driver."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        count = pynvml.nvmlDeviceGetCount()
        return tuple(_card(pynvml, index) for index in range(count))
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def asked(question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except nvml.NVMLError:  # what this card, or this driver, does not tell
            return None

    memory = asked(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = asked(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    cuda = asked(nvml.nvmlSystemGetCudaDriverVersion)  # 12050 is 12.5
    return Gpu(
        name=str(asked(nvml.nvmlDeviceGetName, handle) or f"card {index}"),
        compute_capability=None if capability is None else (capability[0], capability[1]),
        memory_bytes=None if memory is None else int(memory.total),
        free_bytes=None if memory is None else int(memory.free),
        driver=asked(nvml.nvmlSystemGetDriverVersion),
        driver_cuda=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
    )


def _on_the_bus() -> bool:
    """Whether Linux lists a display or 3D controller (class 03) of NVIDIA (vendor 0x10de)."""
    return any(
        read_text(folder / "vendor").strip() == "0x10de"
        and read_text(folder / "class").startswith("0x03")
        for folder in Path("/sys/bus/pci/devices").glob("*")
    )


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all, and those that may still be taken."""
    try:
        import psutil
    except ImportError:
        return None, None
    host = psutil.virtual_memory()
    total, available = int(host.total), int(host.available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        allowed, taken = read_text(limit).strip(), read_text(used).strip()
        if allowed.isdigit() and int(allowed) < min(total, UNLIMITED) and taken.isdigit():
            total = int(allowed)
            available = min(available, max(0, total - int(taken)))
    return total, available
