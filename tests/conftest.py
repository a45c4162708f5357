"""What all tests share: the command line in this process, and a stand-in for the runner."""

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Else OmegaConf makes other chains of errors where a tracer is at work, such as coverage's.
os.environ.setdefault("OC_CAUSE", "0")

# Before any test imports TensorFlow: its C++ part otherwise fills stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Where submitit is imported it closes all handlers of logging, and absl's closes the stderr that it
# had when TensorFlow was imported: pytest's own.
with contextlib.suppress(ImportError):
    import submitit.core.logger  # noqa: F401

# A shell starts background jobs with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def own_tuning_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests, which finds the peaks once, and leaves the user's own as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPT_CACHE", str(tmp_path_factory.mktemp("tuning_cache")))
        yield


gc.set_threshold(100_000, 10, 10)


@pytest.fixture(autouse=True, scope="module")
def garbage_of_one_module() -> Iterator[None]:
    """Collect it, and look through what is left no more: TensorFlow's graphs are a million objects,
    and each full collection would take seconds.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Put the root logger back: Hydra's --info leaves a handler and a level of its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def search_path_as_it_was() -> Iterator[None]:
    """Put sys.path back, to which a command adds the folder that it is run in."""
    path = list(sys.path)
    yield
    sys.path[:] = path


@pytest.fixture(autouse=True)
def default_keras_policy() -> Iterator[None]:
    """Put Keras's global policy back, where a test imported Keras and set one."""
    yield
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "config"):
        sys.modules["keras"].config.set_dtype_policy("float32")


@dataclass
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def mpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., Result]:
    """`mpt(*words)` runs the command line in this process, in an empty folder."""
    from mpt.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPT_ALLOW", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def call(*words: str) -> Result:
        capfd.readouterr()
        code = main(list(words))
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def mpt_process(tmp_path: Path) -> Callable[..., Result]:
    """`mpt_process(*words)` runs the command line as a process of its own, in an empty folder."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("MPT_ALLOW", "HYDRA_FULL_ERROR")
    }
    environment["PYTHONPATH"] = str(ROOT)

    def call(*words: str, python: tuple[str, ...] = (), timeout: float = 120) -> Result:
        done = subprocess.run(
            [sys.executable, *python, "-m", "mpt", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@dataclass
class Run:
    """One call of the runner's stand-in."""

    config: Any
    run_dir: Path
    arguments: dict[str, Any]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Replaces the runner by one that only notes what it is asked for, and ends with 0."""
    called: list[Run] = []

    def run(config: Any, run_dir: Path, **arguments: Any) -> int:
        called.append(Run(config, run_dir, arguments))
        return 0

    stand_in = types.ModuleType("mpt.runner")
    stand_in.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mpt.runner", stand_in)
    monkeypatch.setattr("mpt.isolation.import_tensorflow", lambda verbosity: None)
    return called


@pytest.fixture(scope="session")
def compositions() -> dict[tuple[str, ...], Any]:
    """What was composed before: Hydra takes half a second each time."""
    return {}


@pytest.fixture
def compose(compositions: dict[tuple[str, ...], Any]) -> Callable[..., Any]:
    """`compose(*overrides)` gives the typed configuration that `mpt train *overrides` would."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from mpt.composition import register, settle_length
    from mpt.config import configs_dir, to_config

    def call(*overrides: str) -> Any:
        if overrides not in compositions:
            register()
            with initialize_config_dir(version_base="1.3", config_dir=str(configs_dir())):
                compositions[overrides] = hydra_compose("train", settle_length(list(overrides)))
        return to_config(compositions[overrides])

    return call
