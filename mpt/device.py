"""The device that a run uses: what it is, what it holds, and settings made before its first use.

TensorFlow is imported inside the functions, so that a command that only describes a device's
table of peaks, or answers help, does not pay for it.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.workers import Cluster

ACCELERATORS = ("auto", "cpu", "gpu")
CONNECTING_SECONDS = 50.0
"""s in which the members of a team connect by TensorFlow; GPUs are set up meanwhile."""

STRATEGIES = ("none", "mirrored", "multi_worker")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
FLOAT16_FLAGS = frozenset({"avx512_fp16", "amx_fp16"})


@dataclass(frozen=True)
class Device:
    """What TensorFlow computes on.

    Attributes:
        kind: "cpu" or "gpu".
        name: the vendor's name of it.
        count: devices of this kind that TensorFlow sees; a CPU is one, or its logical parts.
        compute_capability: of a GPU, as (major, minor); None for a CPU, or where unknown.
        driver: version of the GPU's driver; None for a CPU, or where unknown.
        bfloat16_units: a CPU's instructions for bfloat16 products, or a GPU's (from 8.0).
        float16_units: likewise for float16 (a GPU's from 7.0).
        memory_bytes: of one GPU, or of the host for a CPU; None where unknown.
    """

    kind: str
    name: str
    count: int
    compute_capability: tuple[int, int] | None
    driver: str | None
    bfloat16_units: bool
    float16_units: bool
    memory_bytes: int | None

    @classmethod
    def of_cpu(cls, name: str, flags: frozenset[str], memory: int | None, count: int = 1) -> Device:
        """A processor with these feature flags of /proc/cpuinfo."""
        return cls(
            kind="cpu",
            name=name,
            count=count,
            compute_capability=None,
            driver=None,
            bfloat16_units=bool(flags & BFLOAT16_FLAGS),
            float16_units=bool(flags & FLOAT16_FLAGS),
            memory_bytes=memory,
        )

    @classmethod
    def of_gpus(
        cls,
        name: str,
        count: int,
        capability: tuple[int, int] | None,
        driver: str | None,
        memory: int | None,
    ) -> Device:
        """`count` cards of this compute capability."""
        return cls(
            kind="gpu",
            name=name,
            count=count,
            compute_capability=capability,
            driver=driver,
            bfloat16_units=capability is not None and capability >= (8, 0),
            float16_units=capability is not None and capability >= (7, 0),
            memory_bytes=memory,
        )

    @property
    def has_tf32(self) -> bool:
        """Whether float32 products may use TensorFloat-32."""
        return self.compute_capability is not None and self.compute_capability >= (8, 0)


def prepare(
    *,
    accelerator: str,
    memory_growth: bool,
    memory_limit_mb: int | None,
    logical_cpus: int | None,
    deterministic: bool,
) -> Device:
    """Choose the device and set it up. Must run before TensorFlow computes anything.

    Args:
        accelerator: "auto" takes a GPU where there is one; "cpu" hides the GPUs.
        memory_growth: let GPU memory grow as needed instead of taking all of it.
        memory_limit_mb: hard limit of each GPU's memory, MiB, which replaces growth; or, on a CPU,
            of what this process may take from now on (see `limit_process`).
        logical_cpus: split the CPU into this many logical devices.
        deterministic: kernels that give the same bits each time, slower or unsupported for some.

    Raises:
        ConfigurationError: a GPU is asked for and absent, or TensorFlow already runs with other
            settings.
    """
    import tensorflow as tf

    if accelerator not in ACCELERATORS:
        raise ConfigurationError(
            f"There is no accelerator {accelerator!r}.",
            where="device.accelerator",
            allowed=ACCELERATORS,
            value=accelerator,
        )
    gpus = [] if accelerator == "cpu" else tf.config.list_physical_devices("GPU")
    if accelerator == "gpu" and not gpus:
        raise ConfigurationError(
            "A GPU is asked for, and TensorFlow finds none.",
            where="device.accelerator",
            remedy="set device.accelerator=auto to run on the CPU; or install the extra 'gpu' "
            "(tensorflow[and-cuda]) and check that nvidia-smi lists the card",
        )
    try:
        if accelerator == "cpu" and tf.config.get_visible_devices("GPU"):
            tf.config.set_visible_devices([], "GPU")
        for gpu in gpus:
            _set_memory(gpu, memory_growth, memory_limit_mb)
        if logical_cpus is not None:
            _split_cpu(logical_cpus)
    except RuntimeError as error:
        raise ConfigurationError(
            f"TensorFlow already runs with other device settings: {error}",
            where="device",
            remedy="start a new process; device settings hold for the life of one",
        ) from error
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if not gpus and memory_limit_mb is not None:
        limit_process(memory_limit_mb)
    return _gpu(gpus) if gpus else _cpu(logical_cpus or 1)


def _set_memory(gpu: Any, growth: bool, limit_mb: int | None) -> None:
    import tensorflow as tf

    if limit_mb is not None:
        wanted = [tf.config.LogicalDeviceConfiguration(memory_limit=limit_mb)]
        if tf.config.get_logical_device_configuration(gpu) != wanted:
            tf.config.set_logical_device_configuration(gpu, wanted)
    elif tf.config.experimental.get_memory_growth(gpu) != growth:
        tf.config.experimental.set_memory_growth(gpu, growth)


def limit_process(limit_mb: int) -> None:
    """Let this process take no more than `limit_mb` MiB of memory beyond what it holds now.

    The limit is Linux's RLIMIT_DATA, getrlimit(2): private writable memory, as mapped and not as
    touched, threads' stacks among it. Past it an allocation fails: TensorFlow then raises
    ResourceExhaustedError, or, where its libraries do not look, ends the process by SIGABRT
    (std::bad_alloc) or SIGSEGV.

    Raises:
        ConfigurationError: there is no such limit on this system.
    """
    held = re.search(r"^VmData:\s*(\d+) kB", read_text("/proc/self/status"), re.MULTILINE)
    if sys.platform != "linux" or held is None:
        raise ConfigurationError(
            "The memory of a process can be limited on Linux only.",
            where="device.memory_limit_mb",
            remedy="set device.memory_limit_mb=null",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(held.group(1)) * 1024 + limit_mb * 2**20
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _split_cpu(count: int) -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) != count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        )


def _gpu(gpus: list[Any]) -> Device:
    import tensorflow as tf

    details = tf.config.experimental.get_device_details(gpus[0])
    capability = details.get("compute_capability")
    name = details.get("device_name", gpus[0].name)
    return Device.of_gpus(name, len(gpus), tuple(capability) if capability else None, *_nvml())


def _nvml() -> tuple[str | None, int | None]:
    """Driver and memory of the first card, from NVIDIA's management library where it answers."""
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(0)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(card).total)
            return str(pynvml.nvmlSystemGetDriverVersion()), memory
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None, None


def _cpu(count: int) -> Device:
    import psutil

    name, flags = parse_cpuinfo(read_text("/proc/cpuinfo"))
    return Device.of_cpu(name, flags, int(psutil.virtual_memory().total), count)


def read_text(path: str | Path) -> str:
    """The text of one of Linux's files; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and feature flags in the text of Linux's /proc/cpuinfo."""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (
        name.group(1).strip() if name else "CPU",
        frozenset(flags.group(1).split()) if flags else frozenset(),
    )


def strategy(name: str, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """The distribution strategy.

    Args:
        name: "none" (TensorFlow's default), "mirrored" over all devices, or "multi_worker" over
            those of all members of `cluster`, with whom TensorFlow connects here. One device alone
            has TensorFlow's default, too.

    Raises:
        ConfigurationError: no such strategy.
    """
    import tensorflow as tf

    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker" and cluster is not None and len(cluster.members) > 1:
        return _multi_worker(cluster)
    if name not in STRATEGIES:
        raise ConfigurationError(
            f"There is no strategy {name!r}.",
            where="device.strategy",
            allowed=STRATEGIES,
            value=name,
        )
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    names = gpus or [cpu.name for cpu in tf.config.list_logical_devices("CPU")]
    if len(names) == 1:  # MirroredStrategy over one device cannot hold a step that may be skipped
        return tf.distribute.get_strategy()
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(names, cross_device_ops=reduction)


def _multi_worker(cluster: Cluster) -> tf.distribute.Strategy:
    import tensorflow as tf
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    kind, index = cluster.task
    jobs = [
        coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
        for job, addresses in cluster.tasks.items()
    ]
    # TensorFlow's own limits are 10 s for a silent member, which ends the process without a name,
    # and an hour for one that does not connect.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.members[0][0]}/replica:0/task:0",
        cluster_register_timeout_in_ms=int(2e3 * CONNECTING_SECONDS),
        heartbeat_timeout_in_ms=int(2e3 * CONNECTING_SECONDS),
        coordinated_jobs=jobs,
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster.tasks),
        task_type=kind,
        task_id=index,
        rpc_layer="grpc",
        num_accelerators={"GPU": len(tf.config.get_visible_devices("GPU"))},
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    # Else each batch costs an all-reduce that asks whether all members have one: they do.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy


def set_tf32(enabled: bool) -> None:
    """Allow or forbid TensorFloat-32 in float32 products on a GPU; TensorFlow allows it unasked."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(enabled)


def device_memory() -> dict[str, int | None]:
    """Bytes that tensors hold now (`in_use`) and held at most (`peak`), on the fullest GPU.

    Both are None on a CPU: TensorFlow counts nothing there, and answers zeros.
    """
    import tensorflow as tf

    infos = [
        tf.config.experimental.get_memory_info(f"GPU:{index}")
        for index in range(len(tf.config.list_logical_devices("GPU")))
    ]
    if not infos:
        return {"peak": None, "in_use": None}
    return {
        "peak": max(info["peak"] for info in infos),
        "in_use": max(info["current"] for info in infos),
    }


def host_rss() -> tuple[int, int]:
    """Resident bytes of this process: now, and at most since it started.

    The peak is Linux's VmHWM: `ru_maxrss` would count what the parent held at the fork.
    """
    status = read_text("/proc/self/status")
    current = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    peak = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    if current and peak:
        # The kernel brings the peak up to date later than the current value.
        now = int(current.group(1)) * 1024
        return now, max(now, int(peak.group(1)) * 1024)
    import psutil

    unit = 1 if os.uname().sysname == "Darwin" else 1024
    now = int(psutil.Process().memory_info().rss)
    return now, max(now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
