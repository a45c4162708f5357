import pytest
import tensorflow as tf

from mpt import device
from mpt.device import Device
from mpt.errors import ConfigurationError

SETTINGS = {
    "accelerator": "auto",
    "memory_growth": True,
    "memory_limit_mb": None,
    "logical_cpus": None,
    "deterministic": False,
}
H100 = Device("gpu", "NVIDIA H100 80GB HBM3", 1, (9, 0), "555", True, True, 80 * 2**30)
HAS_GPU = bool(tf.config.list_physical_devices("GPU"))


def test_prepare_describes_the_cpu():
    found = device.prepare(**{**SETTINGS, "accelerator": "auto" if not HAS_GPU else "cpu"})
    assert found.kind == "cpu"
    assert found.name
    assert found.count == 1
    assert found.compute_capability is None
    assert found.driver is None
    assert found.memory_bytes > 2**28
    assert device.prepare(**{**SETTINGS, "accelerator": "cpu"}) == found


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_gpu_asked_for_and_absent():
    with pytest.raises(ConfigurationError, match="finds none") as error:
        device.prepare(**{**SETTINGS, "accelerator": "gpu"})
    assert error.value.where == "device.accelerator"


def test_unknown_accelerator_and_strategy():
    with pytest.raises(ConfigurationError) as error:
        device.prepare(**{**SETTINGS, "accelerator": "gpuu"})
    assert error.value.suggestion == "gpu"
    with pytest.raises(ConfigurationError) as error:
        device.strategy("mirored")
    assert error.value.suggestion == "mirrored"


def test_settings_that_come_too_late():
    tf.zeros(1)  # TensorFlow runs now
    with pytest.raises(ConfigurationError, match="already runs") as error:
        device.prepare(**{**SETTINGS, "accelerator": "cpu", "logical_cpus": 3})
    assert "new process" in error.value.remedy


def test_strategies():
    assert device.strategy("none") is tf.distribute.get_strategy()
    mirrored = device.strategy("mirrored")
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    assert mirrored.num_replicas_in_sync == len(devices)


def test_tf32_switch():
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        device.set_tf32(False)
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
        device.set_tf32(True)
        assert tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        device.set_tf32(before)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_memory_of_a_cpu_is_not_measured_rather_than_zero():
    assert device.device_memory() == {"peak": None, "in_use": None}


def test_host_memory_grows_with_what_is_held():
    before, _ = device.host_rss()
    held = bytearray(64 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    during, peak = device.host_rss()
    assert during - before > 48 * 2**20
    assert peak >= during
    del held
    # The kernel batches its counts a thread, so the two are equal to some pages only.
    assert device.host_rss()[1] > during - 4 * 2**20


def test_host_memory_without_proc(monkeypatch):
    monkeypatch.setattr(device, "read_text", lambda path: "")
    current, peak = device.host_rss()
    assert 2**20 < current <= peak


@pytest.mark.parametrize(
    ("flags", "bfloat16", "float16"),
    [
        ("fpu avx2 f16c", False, False),
        ("fpu avx512f avx512_bf16", True, False),
        ("amx_bf16 amx_tile", True, False),
        ("avx512_fp16 avx512_bf16", True, True),
    ],
)
def test_units_are_read_from_cpuinfo(monkeypatch, flags, bfloat16, float16):
    text = f"processor : 0\nmodel name\t: Some CPU @ 2GHz\nflags\t\t: {flags}\n"
    monkeypatch.setattr(device, "read_text", lambda path: text)
    found = device.prepare(**{**SETTINGS, "accelerator": "cpu"})
    assert found.name == "Some CPU @ 2GHz"
    assert (found.bfloat16_units, found.float16_units) == (bfloat16, float16)
