"""TensorFlow imported and used, in a process of its own: one JSON line a stage on stdout.

A stage that kills the process leaves the lines before it. Nothing of mpt is imported.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

CUDART = ("libcudart.so.12", "libcudart.so.13", "libcudart.so.11.0", "libcudart.so")
CUDNN = ("libcudnn.so.9", "libcudnn.so.8", "libcudnn.so")  # those that TensorFlow takes come first
SIZE = 64  # of the product that XLA compiles
TOLERANCE = 1e-2  # TensorFloat-32 has 10 bits


def main() -> None:
    """Import, look at the devices, and compile, in this order."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    tell(imported())
    tell(devices())
    tell(xla())


def tell(facts: dict[str, Any]) -> None:
    """Write one stage's facts, so that they outlive this process."""
    print(json.dumps(facts), flush=True)


def imported() -> dict[str, Any]:
    """Versions, and what TensorFlow was built for."""
    began = time.perf_counter()
    import keras
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    cuda = bool(build.get("is_cuda_build"))
    return {
        "stage": "imported",
        "version": tf.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "import_seconds": time.perf_counter() - began,
        "cuda_built": build.get("cuda_version") if cuda else None,
        "cudnn_built": build.get("cudnn_version") if cuda else None,
        "architectures": list(build.get("cuda_compute_capabilities", [])),
    }


def devices() -> dict[str, Any]:
    """The cards that TensorFlow uses, and the libraries that this process can load."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus
    ]
    return {
        "stage": "devices",
        "gpus": names,
        "cuda_found": cuda_version(),
        "cudnn_found": cudnn_version(),
    }


def cuda_version() -> str | None:
    """The version of CUDA's runtime, of the library that loads here."""
    library = _loaded(CUDART)
    number = ctypes.c_int()
    if library is None or library.cudaRuntimeGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def cudnn_version() -> str | None:
    """The version of cuDNN: 90300 is 9.3.0, and 8905 is 8.9.5."""
    library = _loaded(CUDNN)
    if library is None:
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    major, minor = (10_000, 100) if number >= 90_000 else (1000, 100)
    return f"{number // major}.{number % major // minor}.{number % minor}"


def _loaded(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def xla() -> dict[str, Any]:
    """Whether XLA compiles a product on the default device, and computes it rightly."""
    import numpy as np
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype("float32")
    product = tf.function(lambda x: tf.tanh(x @ x / SIZE), jit_compile=True)
    began = time.perf_counter()
    try:
        got = product(tf.constant(matrix)).numpy()
    except Exception as error:  # whatever XLA, ptxas or libdevice raise is what is asked for
        return {"stage": "xla", "xla_error": (str(error).strip().splitlines() or [repr(error)])[0]}
    seconds = time.perf_counter() - began
    off = float(np.max(np.abs(got - np.tanh(matrix @ matrix / SIZE))))
    if not off < TOLERANCE:
        return {"stage": "xla", "xla_error": f"a product compiled by XLA is off by {off:g}"}
    return {"stage": "xla", "xla_seconds": seconds}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # what TensorFlow does at the end of a process is not asked for
