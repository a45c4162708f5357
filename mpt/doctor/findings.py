"""What is wrong with a machine, by what is known of it, and what to do: rules on plain values."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mpt.device import BFLOAT16_FLAGS
from mpt.doctor.facts import Facts, Finding, Hardware, TensorFlow
from mpt.doctor.hardware import device
from mpt.doctor.import_errors import remedy
from mpt.schema import FLOAT8_CAPABILITY

PYTHONS = ((3, 11), (3, 13))
LITTLE_MEMORY = 2 * 2**30  # bytes: TensorFlow takes half a GiB, a small run as much again
LITTLE_DISK = 2**30  # bytes
TAKEN = 0.5  # share of a card's memory that others hold
GPU_EXTRA = "python -m pip install 'tensorflow[and-cuda]>=2.21,<2.22'"
TENSOR_CORES = (7, 0)


def findings(facts: Facts) -> list[Finding]:
    """Problems first, then warnings, then notes; in the order of the table among themselves."""
    rules = (python, packages, variables, folder, memory, cpu, cards, imports, cuda, cudnn, xla)
    found = [finding for rule in rules for finding in rule(facts)]
    levels = ("problem", "warning", "note")
    return sorted(found, key=lambda finding: levels.index(finding.level))


def python(facts: Facts) -> Iterator[Finding]:
    """The interpreter's version."""
    version = _version(facts.environment.python)
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        yield Finding(
            "problem",
            "python",
            f"mpt needs Python 3.11 to 3.13, and this is {facts.environment.python}",
            "make an environment of another Python: python3.12 -m venv .venv",
        )


def packages(facts: Facts) -> Iterator[Finding]:
    """What is missing, of another version, or in the way."""
    environment = facts.environment
    if not environment.packages:
        yield Finding(
            "warning",
            "packages",
            "mpt-keras is not installed here, so the versions that it needs are not known",
            "python -m pip install -e . in its checkout",
        )
    for package in environment.packages:
        if package.fits is False:
            is_absent = package.installed is None
            what = "is missing" if is_absent else f"is {package.installed}"
            yield Finding(
                "problem",
                "packages",
                f"{package.name} {what}, and mpt needs {package.required}",
                f"python -m pip install '{package.name}{package.required}'",
            )
    for name in environment.others:
        if name == "mpt":
            message = "the distribution mpt is another project, with a package of the same name"
            mend = "python -m pip uninstall mpt, then install mpt-keras again"
        else:
            message = f"{name} is installed beside tensorflow, and the last one installed has won"
            mend = f"python -m pip uninstall {name}, then install tensorflow again"
        yield Finding("warning", "packages", message, mend)


def variables(facts: Facts) -> Iterator[Finding]:
    """Variables of the environment that change what a run computes, or on what."""
    given = facts.environment.variables
    backend = given.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        message = f"KERAS_BACKEND={backend}: mpt trains with TensorFlow"
        yield Finding("problem", "variables", message, "unset KERAS_BACKEND")
    if given.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        yield Finding(
            "warning",
            "variables",
            "TF_ENABLE_ONEDNN_OPTS=0 turns off oneDNN, and bfloat16 on a CPU is emulated without",
            "unset TF_ENABLE_ONEDNN_OPTS",
        )
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if name in given:
            message = f"{name}={given[name]} keeps oneDNN from newer instructions of this processor"
            yield Finding("warning", "variables", message, f"unset {name}")
    if "NVIDIA_TF32_OVERRIDE" in given:
        message = f"NVIDIA_TF32_OVERRIDE={given['NVIDIA_TF32_OVERRIDE']} wins over precision.tf32"
        yield Finding("warning", "variables", message, "unset NVIDIA_TF32_OVERRIDE")
    if "TF_CONFIG" in given:
        message = "TF_CONFIG is set, which device=multi_worker reads"
        yield Finding("note", "variables", message, "unset TF_CONFIG unless you train on several")


def folder(facts: Facts) -> Iterator[Finding]:
    """Whether runs have somewhere to go."""
    where, free = facts.environment.folder, facts.environment.folder_free_bytes
    if where is None:
        message = "the current folder was removed, and runs go there"
        yield Finding("problem", "folder", message, "cd to another one")
    elif not facts.environment.folder_writable:
        message = f"no folder can be made in {where}, where runs go"
        yield Finding("problem", "folder", message, "run_dir=PATH, or another current folder")
    elif free is not None and free < LITTLE_DISK:
        message = f"less than 1 GiB is free in {where}; checkpoints and event files need room"
        yield Finding("warning", "folder", message, "free some, or run_dir=PATH on another disk")


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether there is enough of it."""
    available = facts.hardware.available_bytes
    if available is not None and available < LITTLE_MEMORY:
        yield Finding(
            "warning",
            "memory",
            "less than 2 GiB of memory is free, and a small run takes one",
            "end what holds it; trainer=smoke and a small batch_size take the least",
        )


def cpu(facts: Facts) -> Iterator[Finding]:
    """Whether 16 bits can pay on a processor that has to do the work."""
    hardware = facts.hardware
    if hardware.gpus or BFLOAT16_FLAGS & set(hardware.units):
        return
    yield Finding(
        "note",
        "cpu",
        "this processor has no units for products in 16 bits, and emulates them slowly",
        "compare speed on another machine; numerics (mpt probe, loss scale) are the same here",
    )


def cards(facts: Facts) -> Iterator[Finding]:
    """Cards, the driver, and whether TensorFlow uses them."""
    hardware = facts.hardware
    if hardware.card_without_driver:
        yield Finding(
            "problem",
            "gpu",
            "there is an NVIDIA card, and no driver answers",
            "install the driver; in a container, start it with --gpus all",
        )
    yield from _hidden(facts)
    for gpu in hardware.gpus:
        capability = gpu.compute_capability
        if capability is not None and capability < TENSOR_CORES:
            yield Finding(
                "note",
                "gpu",
                f"{gpu.name} (compute capability {_dotted(capability)}) has no tensor cores",
                "reduced precision saves memory here, and hardly time",
            )
        if gpu.memory_bytes and gpu.free_bytes is not None:
            taken = 1 - gpu.free_bytes / gpu.memory_bytes
            if taken > TAKEN:
                message = f"{taken:.0%} of the memory of {gpu.name} is taken"
                yield Finding("warning", "gpu", message, "nvidia-smi shows by whom")


def _hidden(facts: Facts) -> Iterator[Finding]:
    """Cards that the driver lists and TensorFlow does not use."""
    tensorflow, gpus = facts.tensorflow, facts.hardware.gpus
    if tensorflow is None or not _reached(tensorflow, "devices") or not gpus or tensorflow.gpus:
        return
    visible = facts.environment.variables.get("CUDA_VISIBLE_DEVICES")
    message = f"TensorFlow uses none of the {len(gpus)} cards that the driver lists"
    if visible is not None and not re.match(r"\d|GPU-|MIG-", visible):
        yield Finding("note", "gpu", f"{message}: CUDA_VISIBLE_DEVICES={visible!r} hides them",
                      "unset CUDA_VISIBLE_DEVICES")  # fmt: skip
    elif tensorflow.cuda_built is None:
        yield Finding("problem", "gpu", f"{message}: it is a build without CUDA", GPU_EXTRA)
    else:
        mend = f"{GPU_EXTRA}, which brings CUDA's libraries"
        yield Finding("problem", "gpu", f"{message}: it finds no CUDA libraries", mend)


def imports(facts: Facts) -> Iterator[Finding]:
    """Whether TensorFlow can be imported, and its devices set up."""
    tensorflow = facts.tensorflow
    if tensorflow is None or _reached(tensorflow, "devices"):
        return
    how = f"killed by {tensorflow.ended_by}" if tensorflow.ended_by else ""
    cause = ": ".join(part for part in (how, tensorflow.error) if part)
    what = "TensorFlow fails while it looks for devices"
    if tensorflow.stage == "start":
        what = "TensorFlow cannot be imported"
    yield Finding("problem", "tensorflow", f"{what}: {cause}", remedy(tensorflow, facts.hardware))


def cuda(facts: Facts) -> Iterator[Finding]:
    """Driver, CUDA's libraries and the code in TensorFlow, held against the cards."""
    tensorflow, gpus = facts.tensorflow, facts.hardware.gpus
    if tensorflow is None or tensorflow.cuda_built is None or not gpus:
        return
    built = _version(tensorflow.cuda_built)
    served = gpus[0].driver_cuda
    if served is not None and served[0] < built[0]:
        yield Finding(
            "problem",
            "cuda",
            f"driver {gpus[0].driver} serves CUDA {_dotted(served)}, and TensorFlow is built for "
            f"{tensorflow.cuda_built}",
            "update the driver: CUDA 12 needs 525.60 or newer",
        )
    newest = _newest(tensorflow.architectures)
    for gpu in gpus:
        if newest is not None and gpu.compute_capability and gpu.compute_capability > newest:
            yield Finding(
                "note",
                "cuda",
                f"{gpu.name} is newer than the code in TensorFlow (up to {_dotted(newest)})",
                "the driver translates it at first use, for minutes; CUDA_CACHE_MAXSIZE=4294967296 "
                "keeps all of it",
            )


def cudnn(facts: Facts) -> Iterator[Finding]:
    """cuDNN, where there are cards to use it."""
    tensorflow = facts.tensorflow
    if tensorflow is None or tensorflow.cudnn_built is None or not tensorflow.gpus:
        return
    found = tensorflow.cudnn_found
    if found is None or _version(found)[0] < _version(tensorflow.cudnn_built)[0]:
        yield Finding(
            "problem",
            "cudnn",
            f"TensorFlow is built for cuDNN {tensorflow.cudnn_built}, and "
            + (f"{found} was found" if found else "none was found"),
            f"{GPU_EXTRA}, which brings it; and take older ones off LD_LIBRARY_PATH",
        )


def xla(facts: Facts) -> Iterator[Finding]:
    """Whether XLA compiles."""
    tensorflow = facts.tensorflow
    if tensorflow is None or not _reached(tensorflow, "devices"):
        return
    if tensorflow.xla_seconds is not None:
        return
    killed = f"killed by {tensorflow.ended_by}" if tensorflow.ended_by else None
    cause = tensorflow.xla_error or tensorflow.error or killed or "no answer"
    mend = "trainer.jit_compile=false trains without it"
    if re.search(r"libdevice|ptxas|cuda_data_dir", cause):
        mend = f"{GPU_EXTRA} brings libdevice and ptxas; {mend}"
    yield Finding("warning", "xla", f"XLA does not work: {cause}", mend)


def policies(hardware: Hardware) -> list[str]:
    """Policies that pay in speed on what a run would compute on, best known first."""
    found = device(hardware)
    paying = (
        (found.bfloat16_units, "mixed_bfloat16"),
        (found.float16_units, "mixed_float16"),
        (found.has_tf32, "tf32"),
        ((found.compute_capability or (0, 0)) >= FLOAT8_CAPABILITY, "float8 (experimental)"),
    )
    return [name for pays, name in paying if pays]


def _reached(tensorflow: TensorFlow, stage: str) -> bool:
    stages = ("start", "imported", "devices", "xla")
    return stages.index(tensorflow.stage) >= stages.index(stage)


def _version(text: str) -> tuple[int, int]:
    numbers = [int(number) for number in re.findall(r"\d+", text)[:2]]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _newest(architectures: tuple[str, ...]) -> tuple[int, int] | None:
    numbers = [int(found[0]) for name in architectures if (found := re.findall(r"\d+", name))]
    return (max(numbers) // 10, max(numbers) % 10) if numbers else None
