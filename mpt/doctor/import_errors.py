"""What to do where TensorFlow cannot be imported, by what its process said."""

from __future__ import annotations

import re

from mpt.doctor.facts import Hardware, TensorFlow

# Read in order; the first pattern that is found in the error counts.
REMEDIES = (
    (
        r"No module named '?(jax|torch|openvino)",
        "unset KERAS_BACKEND, or set backend to tensorflow in ~/.keras/keras.json",
    ),
    (
        r"No module named '?(tensorflow|keras)'?$",
        "python -m pip install 'tensorflow>=2.21,<2.22' 'keras>=3.15,<3.16'",
    ),
    (
        r"No module named '?([\w]+)",
        "a package that TensorFlow needs is missing: python -m pip install --force-reinstall "
        "'tensorflow>=2.21,<2.22'",
    ),
    (
        r"GLIBCXX|CXXABI",
        "a libstdc++ older than TensorFlow's comes first: conda install -c conda-forge "
        "libstdcxx-ng, or take its folder off LD_LIBRARY_PATH",
    ),
    (r"GLIBC_", "the system's C library is too old (2.17 is needed): a newer system or container"),
    (
        r"numpy.*(binary incompat|_ARRAY_API|dtype size changed|multiarray failed)"
        r"|(_ARRAY_API|dtype size changed|multiarray failed)",
        "NumPy and a package built for another one meet: python -m pip install --upgrade "
        "--force-reinstall numpy tensorflow",
    ),
    (
        r"Descriptors cannot|runtime_version|protobuf|_message",
        "protobuf does not fit: python -m pip install --upgrade 'protobuf>=5.28' tensorflow",
    ),
    (
        r"static TLS",
        "a library must load first: LD_PRELOAD=PATH of the library that the error names",
    ),
    (
        r"lib(cuda|cudart|cudnn|cublas|cufft|cusolver|cusparse|nccl|nvrtc)[\w.]*: cannot open",
        "a build against other CUDA libraries: python -m pip install --force-reinstall "
        "'tensorflow[and-cuda]>=2.21,<2.22', and take other CUDA folders off LD_LIBRARY_PATH",
    ),
    (
        r"circular import|partially initialized|has no attribute '(__version__|sysconfig)'",
        "a file or folder named tensorflow or keras comes first on PYTHONPATH: rename it",
    ),
    (r"cannot allocate memory|MemoryError", "there is not enough memory: free some"),
)
REINSTALL = (
    "python -m pip install --force-reinstall --no-cache-dir 'tensorflow>=2.21,<2.22'; "
    "python -c 'import tensorflow' shows the whole error"
)


def remedy(tensorflow: TensorFlow, hardware: Hardware) -> str:
    """One line: what to do."""
    if tensorflow.ended_by in ("SIGILL", "SIGTRAP") or (
        tensorflow.ended_by == "SIGABRT" and "avx" not in hardware.units
    ):
        if "avx" not in hardware.units:
            return "TensorFlow's wheels need AVX, which this processor lacks: another machine"
        return "TensorFlow uses instructions that this processor lacks: an official wheel of it"
    if tensorflow.ended_by == "SIGKILL":
        return "the kernel ends what takes too much memory (dmesg tells): free some"
    if tensorflow.ended_by == "timeout":
        return "is its folder on a slow network's disk, or a GPU's driver stuck? nvidia-smi tells"
    for pattern, mend in REMEDIES:
        if re.search(pattern, tensorflow.error or "", re.IGNORECASE):
            return mend
    return REINSTALL
