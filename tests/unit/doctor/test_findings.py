"""What is wrong with a machine, and the remedy: rules on machines that are made up."""

from dataclasses import replace

import pytest

from mpt.doctor.facts import Environment, Facts, Gpu, Hardware, Package, TensorFlow
from mpt.doctor.findings import findings, policies

GIB = 2**30
H100 = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB, 79 * GIB, "555.42", (12, 5))
EPYC = Hardware("AMD EPYC", 2, ("avx", "avx2", "avx512_bf16"), 24 * GIB, 20 * GIB)
WORKING = TensorFlow(
    version="2.21.0",
    keras="3.15.1",
    backend="tensorflow",
    import_seconds=4.0,
    cuda_built="12.5.1",
    cudnn_built="9",
    architectures=("sm_60", "sm_89", "compute_90"),
    xla_seconds=0.2,
    stage="xla",
)
ON_GPU = replace(WORKING, gpus=(H100.name,), cuda_found="12.5", cudnn_found="9.3.0")
SOUND = Facts(
    "0.1.0",
    Environment(
        python="3.12.4",
        executable="/usr/bin/python",
        packages=(Package("tensorflow", "2.21.0", "<2.22,>=2.21", True),),
        others=(),
        variables={},
        folder="/home/me",
        folder_writable=True,
        folder_free_bytes=50 * GIB,
    ),
    EPYC,
    WORKING,
)
WITH_GPU = replace(SOUND, hardware=replace(EPYC, gpus=(H100,)), tensorflow=ON_GPU)


def changed(facts, **of_environment):
    return replace(facts, environment=replace(facts.environment, **of_environment))


@pytest.mark.parametrize("facts", [SOUND, WITH_GPU, replace(SOUND, tensorflow=None)])
def test_a_sound_machine_has_no_findings(facts):
    assert findings(facts) == []


CASES = {
    "old Python": (changed(SOUND, python="3.10.2"), "problem", "Python 3.11 to 3.13", "python3.12"),
    "new Python": (changed(SOUND, python="3.14.0"), "problem", "3.14.0", "venv"),
    "missing package": (
        changed(SOUND, packages=(Package("keras", None, "<3.16,>=3.15", False),)),
        "problem",
        "keras is missing",
        "pip install 'keras<3.16,>=3.15'",
    ),
    "other version": (
        changed(SOUND, packages=(Package("keras", "2.9", "<3.16,>=3.15", False),)),
        "problem",
        "keras is 2.9",
        "pip install 'keras<3.16,>=3.15'",
    ),
    "not installed": (changed(SOUND, packages=()), "warning", "not installed", "pip install -e"),
    "namesake": (changed(SOUND, others=("mpt",)), "warning", "another project", "uninstall mpt"),
    "two of them": (
        changed(SOUND, others=("tensorflow-cpu",)),
        "warning",
        "beside tensorflow",
        "uninstall tensorflow-cpu",
    ),
    "backend": (
        changed(SOUND, variables={"KERAS_BACKEND": "jax"}),
        "problem",
        "trains with TensorFlow",
        "unset KERAS_BACKEND",
    ),
    "oneDNN off": (
        changed(SOUND, variables={"TF_ENABLE_ONEDNN_OPTS": "0"}),
        "warning",
        "emulated",
        "unset TF_ENABLE_ONEDNN_OPTS",
    ),
    "oneDNN held back": (
        changed(SOUND, variables={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        "warning",
        "newer instructions",
        "unset ONEDNN_MAX_CPU_ISA",
    ),
    "TF32 overridden": (
        changed(SOUND, variables={"NVIDIA_TF32_OVERRIDE": "0"}),
        "warning",
        "precision.tf32",
        "unset NVIDIA_TF32_OVERRIDE",
    ),
    "workers": (changed(SOUND, variables={"TF_CONFIG": "{}"}), "note", "multi_worker", "unset"),
    "read-only folder": (
        changed(SOUND, folder_writable=False),
        "problem",
        "/home/me",
        "run_dir=PATH",
    ),
    "full disk": (changed(SOUND, folder_free_bytes=10), "warning", "1 GiB", "run_dir=PATH"),
    "little memory": (
        replace(SOUND, hardware=replace(EPYC, available_bytes=GIB)),
        "warning",
        "2 GiB",
        "batch_size",
    ),
    "no units": (
        replace(SOUND, hardware=replace(EPYC, units=("avx", "avx2"))),
        "note",
        "emulates",
        "another machine",
    ),
    "no driver": (
        replace(SOUND, hardware=replace(EPYC, card_without_driver=True)),
        "problem",
        "no driver answers",
        "--gpus all",
    ),
    "old card": (
        replace(
            WITH_GPU,
            hardware=replace(EPYC, gpus=(replace(H100, name="P100", compute_capability=(6, 0)),)),
        ),
        "note",
        "6.0) has no tensor cores",
        "memory",
    ),
    "taken card": (
        replace(WITH_GPU, hardware=replace(EPYC, gpus=(replace(H100, free_bytes=8 * GIB),))),
        "warning",
        "90% of the memory",
        "nvidia-smi",
    ),
    "hidden cards": (
        replace(changed(WITH_GPU, variables={"CUDA_VISIBLE_DEVICES": "-1"}), tensorflow=WORKING),
        "note",
        "CUDA_VISIBLE_DEVICES='-1' hides",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    "no CUDA build": (
        replace(WITH_GPU, tensorflow=replace(WORKING, cuda_built=None)),
        "problem",
        "a build without CUDA",
        "tensorflow[and-cuda]",
    ),
    "no CUDA libraries": (
        replace(WITH_GPU, tensorflow=WORKING),
        "problem",
        "finds no CUDA libraries",
        "tensorflow[and-cuda]",
    ),
    "old driver": (
        replace(WITH_GPU, hardware=replace(EPYC, gpus=(replace(H100, driver_cuda=(11, 8)),))),
        "problem",
        "serves CUDA 11.8",
        "update the driver",
    ),
    "new card": (
        replace(
            WITH_GPU,
            hardware=replace(EPYC, gpus=(replace(H100, name="B200", compute_capability=(10, 0)),)),
        ),
        "note",
        "newer than the code",
        "CUDA_CACHE_MAXSIZE",
    ),
    "old cuDNN": (
        replace(WITH_GPU, tensorflow=replace(ON_GPU, cudnn_found="8.9.7")),
        "problem",
        "8.9.7 was found",
        "LD_LIBRARY_PATH",
    ),
    "no cuDNN": (
        replace(WITH_GPU, tensorflow=replace(ON_GPU, cudnn_found=None)),
        "problem",
        "none was found",
        "tensorflow[and-cuda]",
    ),
    "no libdevice": (
        replace(
            WITH_GPU,
            tensorflow=replace(ON_GPU, xla_seconds=None, xla_error="libdevice not found at ./x"),
        ),
        "warning",
        "XLA does not work: libdevice",
        "trainer.jit_compile=false",
    ),
    "XLA kills": (
        replace(
            SOUND,
            tensorflow=replace(WORKING, stage="devices", xla_seconds=None, ended_by="SIGSEGV"),
        ),
        "warning",
        "killed by SIGSEGV",
        "trainer.jit_compile=false",
    ),
    "devices fail": (
        replace(SOUND, tensorflow=replace(WORKING, stage="imported", error="CUDA_ERROR_UNKNOWN")),
        "problem",
        "looks for devices: CUDA_ERROR_UNKNOWN",
        "pip install",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_told_with_one_line_of_remedy(case):
    facts, level, message, remedy = CASES[case]
    (finding,) = findings(facts)
    assert finding.level == level
    assert message in finding.message
    assert remedy in finding.remedy
    assert "\n" not in finding.message + finding.remedy


IMPORTS = {
    "ModuleNotFoundError: No module named 'tensorflow'": "pip install 'tensorflow>=2.21",
    "ModuleNotFoundError: No module named 'jax'": "KERAS_BACKEND",
    "ModuleNotFoundError: No module named 'absl'": "a package that TensorFlow needs is missing",
    "ImportError: /lib/libc.so.6: version `GLIBC_2.27' not found": "C library is too old",
    "ImportError: libstdc++.so.6: version `GLIBCXX_3.4.29' not found": "libstdcxx-ng",
    "ValueError: numpy.dtype size changed, may indicate binary incompatibility": "NumPy",
    "TypeError: Descriptors cannot be created directly.": "protobuf",
    "ImportError: libgomp.so.1: cannot allocate memory in static TLS block": "LD_PRELOAD",
    "ImportError: libcudart.so.12: cannot open shared object file": "other CUDA libraries",
    "AttributeError: module 'tensorflow' has no attribute 'sysconfig'": "PYTHONPATH",
    "MemoryError": "not enough memory",
    "ImportError: something else": "--force-reinstall --no-cache-dir",
}


@pytest.mark.parametrize("error", IMPORTS)
def test_an_import_that_fails_has_a_remedy_of_its_own(error):
    (finding,) = findings(replace(SOUND, tensorflow=TensorFlow(error=error)))
    assert finding.level == "problem"
    assert f"cannot be imported: {error}" in finding.message
    assert IMPORTS[error] in finding.remedy


@pytest.mark.parametrize(
    ("ended_by", "units", "remedy"),
    [
        ("SIGILL", (), "need AVX, which this processor lacks"),
        ("SIGILL", ("avx", "avx512_bf16"), "an official wheel"),
        ("SIGKILL", ("avx", "avx512_bf16"), "too much memory"),
        ("timeout", ("avx", "avx512_bf16"), "slow network's disk"),
    ],
)
def test_an_import_that_is_killed_has_one_too(ended_by, units, remedy):
    facts = replace(
        SOUND, hardware=replace(EPYC, units=units), tensorflow=TensorFlow(ended_by=ended_by)
    )
    finding = findings(facts)[0]
    assert f"killed by {ended_by}" in finding.message
    assert remedy in finding.remedy


def test_problems_come_first():
    facts = changed(SOUND, variables={"TF_CONFIG": "{}"}, python="3.10.1", folder_free_bytes=1)
    assert [finding.level for finding in findings(facts)] == ["problem", "warning", "note"]


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 0), []),
        ((7, 5), ["mixed_float16"]),
        ((8, 0), ["mixed_bfloat16", "mixed_float16", "tf32"]),
        ((9, 0), ["mixed_bfloat16", "mixed_float16", "tf32", "float8 (experimental)"]),
        (None, []),
    ],
)
def test_policies_that_pay_on_a_card(capability, expected):
    assert policies(replace(EPYC, gpus=(replace(H100, compute_capability=capability),))) == expected


def test_policies_that_pay_on_a_processor():
    assert policies(EPYC) == ["mixed_bfloat16"]
    assert policies(replace(EPYC, units=("avx2",))) == []
    assert policies(replace(EPYC, units=("amx_fp16",))) == ["mixed_float16"]
