"""What is found out about this machine, and what a child that imports TensorFlow leaves behind."""

import os
import platform
import sys
import types
from importlib import metadata

import psutil
import pytest

from mpt.doctor import environment, hardware, tensorflow_facts


def child(tmp_path, text):
    file = tmp_path / "child.py"
    file.write_text(text)
    return tensorflow_facts.gather((sys.executable, str(file)), seconds=20)


def test_the_interpreter_and_its_packages(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = environment.gather({"TF_CONFIG": "{}", "HOME": "/home/me", "XLA_FLAGS": ""})
    assert (found.python, found.executable) == (platform.python_version(), sys.executable)
    assert found.variables == {"TF_CONFIG": "{}"}
    assert (found.folder, found.folder_writable) == (str(tmp_path), True)
    assert list(tmp_path.iterdir()) == []
    by_name = {package.name: package for package in found.packages}
    assert by_name["keras"].installed == metadata.version("keras")
    assert all(package.fits for package in found.packages)
    assert "pytest" not in by_name  # of an extra


def test_a_package_that_is_missing_or_of_another_version(monkeypatch):
    wanted = ["absent-package>=1", "numpy<1", "keras>=3; extra == 'gpu'"]
    monkeypatch.setattr(environment.metadata, "requires", lambda name: wanted)
    absent, old = environment.packages()
    assert (absent.installed, absent.fits) == (None, False)
    assert (old.name, old.fits) == ("numpy", False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.chdir(tmp_path)
    assert environment.gather({}).folder_writable is False


def test_a_folder_that_takes_no_files(monkeypatch):
    monkeypatch.chdir("/proc")
    assert environment.gather({}).folder_writable is False


def test_the_hardware():
    found = hardware.gather()
    assert found.cores == len(os.sched_getaffinity(0))
    assert 0 < found.available_bytes <= found.memory_bytes <= psutil.virtual_memory().total
    assert hardware.device(found).kind == ("gpu" if found.gpus else "cpu")


def test_a_limit_of_the_control_group_is_less_than_the_host(monkeypatch):
    files = {"/sys/fs/cgroup/memory.max": "1000\n", "/sys/fs/cgroup/memory.current": "400\n"}
    monkeypatch.setattr(hardware, "read_text", lambda path: files.get(str(path), ""))
    found = hardware.gather()
    assert (found.memory_bytes, found.available_bytes) == (1000, 600)


def test_cards_as_the_driver_lists_them(monkeypatch):
    """NVML answers with numbers of its own: 12050 is CUDA 12.5; a question may be refused."""

    class NVMLError(Exception):
        pass

    def refuses(*_):
        raise NVMLError

    nvml = types.ModuleType("pynvml")
    nvml.__dict__.update(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "NVIDIA H100",
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=80, free=60),
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, 0),
        nvmlSystemGetCudaDriverVersion=lambda: 12050,
        nvmlSystemGetDriverVersion=refuses,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (card,) = hardware.cards()
    assert (card.name, card.compute_capability) == ("NVIDIA H100", (9, 0))
    assert (card.memory_bytes, card.free_bytes) == (80, 60)
    assert (card.driver, card.driver_cuda) == (None, (12, 5))
    found = hardware.device(hardware.gather())
    assert (found.kind, found.bfloat16_units, found.has_tf32) == ("gpu", True, True)
    nvml.nvmlInit = refuses
    assert hardware.cards() == ()


def test_lines_of_a_child_that_is_killed_are_kept(tmp_path):
    text = """
import os, signal
print('{"stage": "imported", "version": "2.21.0", "architectures": ["sm_80"]}', flush=True)
print("not of ours", flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    found = child(tmp_path, text)
    assert (found.stage, found.version, found.architectures) == ("imported", "2.21.0", ("sm_80",))
    assert (found.ended_by, found.error) == ("SIGSEGV", None)


def test_the_last_line_of_a_traceback_is_the_error(tmp_path):
    found = child(tmp_path, "raise ImportError('no such library')\n")
    assert (found.stage, found.error) == ("start", "ImportError: no such library")
    assert child(tmp_path, "raise SystemExit(3)\n").error == "its process ended with 3"


def test_a_child_that_does_not_answer(tmp_path):
    file = tmp_path / "child.py"
    file.write_text("import time\ntime.sleep(60)\n")
    found = tensorflow_facts.gather((sys.executable, str(file)), seconds=0.5)
    assert (found.ended_by, found.error) == ("timeout", "no answer within 0.5 s")


def test_versions_of_cuda_and_cudnn(monkeypatch):
    """cudaRuntimeGetVersion and cudnnGetVersion have one number for all parts, by two rules."""
    from mpt.doctor import tensorflow_child

    class Library:
        number = 12050

        def cudaRuntimeGetVersion(self, pointer):
            pointer._obj.value = self.number
            return 0

        def __init__(self):
            self.cudnnGetVersion = lambda: self.number  # it takes attributes, as ctypes' do

    library = Library()
    monkeypatch.setattr(tensorflow_child, "_loaded", lambda names: library)
    assert tensorflow_child.cuda_version() == "12.5"
    library.number = 90300
    assert tensorflow_child.cudnn_version() == "9.3.0"
    library.number = 8905
    assert tensorflow_child.cudnn_version() == "8.9.5"
    monkeypatch.setattr(tensorflow_child, "_loaded", lambda names: None)
    assert tensorflow_child.cuda_version() is tensorflow_child.cudnn_version() is None
