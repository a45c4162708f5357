"""One process a job: a sweep's jobs are children, so that memory and failures stay apart.

`python -m mpt.isolation JOB.json` is such a child. It ends with the run's exit code.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from mpt import errors
from mpt.config import to_config
from mpt.errors import ConfigurationError
from mpt.interrupts import ASKING, Endings
from mpt.leaving import leave
from mpt.printable import print_error
from mpt.quiet import quiet

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
POLL_SECONDS = 0.5
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
CHILD = ["-P", "-m", "mpt.isolation"]

# Each module has `run(config, run_dir, *, command, verbosity, allow, composed, **options)`, and
# imports TensorFlow: so it is named here, and imported only where it runs.
TASKS = {
    "train": "mpt.runner",
    "inspect": "mpt.inspection",
    "probe": "mpt.probing",
    "evaluate": "mpt.evaluation",
    "export": "mpt.exporting",
    "doctor data": "mpt.data_speed",
    "doctor --peaks": "mpt.device_peaks",
}


@dataclass
class Job:
    """What a process needs for one job; plain values only, so that JSON holds it.

    Attributes:
        config: the keys of `TrainConfig`, resolved.
        run_dir: folder of the run.
        command: the command line, for the report.
        composed: YAML texts for `.hydra/`.
        verbosity: -1 quiet, 0 as usual, 1 and above more.
        allow: modules and files of the user's own that are admitted.
        debug: show tracebacks.
        parent: process id of the one that waits.
        root: the process that the whole sweep ends with, where that is another one.
        label: put before each line of its output, where several jobs' lines meet.
        task: what is done with the configuration, one of `TASKS`.
        options: what the task takes besides, by keyword.
    """

    config: dict[str, Any]
    run_dir: str
    command: list[str] = field(default_factory=list)
    composed: dict[str, str] = field(default_factory=dict)
    verbosity: int = 0
    allow: tuple[str, ...] = ()
    debug: bool = False
    parent: int = 0
    root: dict[str, Any] | None = None
    label: str = ""
    task: str = "train"
    options: dict[str, Any] = field(default_factory=dict)


class ChildInterrupted(KeyboardInterrupt):
    """This process was interrupted, and its child too, which ended with `code`."""

    def __init__(self, code: int):
        super().__init__()
        self.code = code


class Labelled:
    """A text stream that writes whole lines, each behind a label.

    It is no terminal, so that no live line of one job is drawn over by another's.
    """

    def __init__(self, stream: Any, label: str):
        self._stream, self._label, self._rest = stream, label, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._stream.write("".join(f"{self._label}{line}\n" for line in lines))
            self._stream.flush()
        return len(text)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def execute(job: Job) -> int:
    """Run `job` in this process.

    Returns:
        The job's exit code; 2, with the error on stderr, where configuration or input is wrong.
    """
    with Endings() as endings:
        return _execute(job, endings)


def _execute(job: Job, endings: Endings) -> int:
    try:
        config = to_config(job.config)
        with _uncollected():
            import_tensorflow(job.verbosity)
            task = importlib.import_module(TASKS[job.task])
        return task.run(
            config,
            Path(job.run_dir),
            command=job.command,
            verbosity=job.verbosity,
            allow=tuple(job.allow),
            composed=job.composed,
            **job.options,
        )
    except ConfigurationError as error:
        print_error(error, debug=job.debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return endings.code
    except Exception as error:
        if endings:  # which TensorFlow, while it starts, may turn into errors of its own
            if job.debug:
                traceback.print_exception(error)
            print("interrupted", file=sys.stderr)
            return endings.code
        print_error(error, debug=job.debug)
        return errors.FAILED


@contextmanager
def _uncollected() -> Iterator[None]:
    """For imports: what they make stays, and to look through it for garbage takes 0.2 s a time."""
    if "tensorflow" in sys.modules:  # then there is garbage of other work, too
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_tensorflow(verbosity: int) -> None:
    """Import TensorFlow without what its C++ part prints on stderr, unless the user wants more.

    TF_CPP_MIN_LOG_LEVEL comes too late for the first lines, which are written while its libraries
    load; so the descriptor itself is turned away, and what an error left there is shown.

    Raises:
        ImportError: it, or Keras, cannot be imported.
        ConfigurationError: Keras has another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if verbosity > 0 else "3")
    try:
        with nullcontext() if verbosity > 0 else quiet():
            importlib.import_module("tensorflow")  # which imports Keras
    except Exception as error:
        raise ImportError(
            f"{error} (TensorFlow cannot be imported; `mpt doctor` tells what to do)"
        ) from error
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras is not None else "tensorflow"
    if backend != "tensorflow":
        raise ConfigurationError(
            f"Keras computes with {backend}, and mpt trains with TensorFlow.",
            where="KERAS_BACKEND, or backend in keras.json",
            remedy="KERAS_BACKEND=tensorflow mpt ...",
        )


def spawn(
    job: Job,
    *,
    output: IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> int:
    """Run `job` in a child process and wait for it.

    An interrupt is handed on to the child, which may save what it has; `ChildInterrupted` is raised
    once the child has ended. A third one kills the child.

    Args:
        output: an open file that takes the child's stdout and stderr; None: those of this process.
        environment: variables of the child's, besides this process's.
        stopped: asked twice a second; once it says True, the child is interrupted.

    Returns:
        The child's exit code; the negative number of the signal where one killed it. A crash under
        a limit of memory is told as 4: libraries below TensorFlow end so where none is left.
    """
    job.parent = os.getpid()
    with tempfile.NamedTemporaryFile("w", suffix=".json", prefix="mpt-job-", delete=False) as file:
        json.dump(asdict(job), file)
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "MPT_ALLOW": ",".join(job.allow)}
    child = subprocess.Popen(
        [sys.executable, *CHILD, file.name],
        env={**os.environ, **own, **(environment or {})},
        stdout=output,
        stderr=output,
        process_group=0,  # the terminal's ^C reaches only this process, which hands it on once
    )
    try:
        with _termination_interrupts():
            code = _wait(child, stopped)
    finally:
        Path(file.name).unlink(missing_ok=True)
    limit = job.options.get("cpu_limit_mb") or job.config.get("device", {}).get("memory_limit_mb")
    if limit is None or code not in CRASHES:
        return code
    print(
        f"{job.label}error: Out of memory: {signal.Signals(-code).name} ended the run's process, "
        f"which had a limit of {limit} MiB\n"
        "  where:   device.memory_limit_mb\n"
        "  to do:   a smaller batch_size or model, or a higher limit",
        file=output or sys.stderr,
        flush=True,
    )
    return errors.OUT_OF_MEMORY


def _wait(child: subprocess.Popen[bytes], stopped: Callable[[], bool] | None) -> int:
    """The child's exit code, with interrupts handed on to it."""
    interrupts, told = 0, False
    while True:
        try:
            # Where `stopped` is asked an interrupt may not wake a wait without end.
            code = child.wait(timeout=None if stopped is None else POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            if stopped is not None and not told and stopped():
                child.send_signal(signal.SIGINT)
                told = True
        except KeyboardInterrupt:
            interrupts += 1
            child.send_signal(signal.SIGINT if interrupts < 3 else signal.SIGKILL)
        except BaseException:  # such as submitit's, when the cluster's time limit is near
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    if interrupts:
        raise ChildInterrupted(code)
    return code


def at_work(run_dir: str | Path) -> bool:
    """Whether a child on this machine works in `run_dir`, though whoever waited for it may be gone.

    Its job's file is there as long as nobody has seen it end.
    """
    folder = os.path.abspath(run_dir)
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:-1] != CHILD:
            continue
        try:
            if os.path.abspath(json.loads(Path(words[-1]).read_text())["run_dir"]) == folder:
                return True
        except (OSError, ValueError, KeyError):  # it has just ended, or is another user's
            continue
    return False


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let what asks a run to end interrupt as SIGINT does; only a main thread has signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A launcher that took SIGUSR2 for itself, as submitit does, ends the wait by its own exception.
    taken = [n for n in ASKING[2:] if signal.getsignal(n) != signal.SIG_DFL]
    mine = [number for number in ASKING[1:] if number not in taken]
    previous = {number: signal.signal(number, _interrupt) for number in mine}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def this_process() -> dict[str, Any]:
    """What `die_with_root` needs to know of the process that a whole sweep ends with."""
    process = psutil.Process()
    return {"pid": process.pid, "created": process.create_time(), "host": socket.gethostname()}


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent ends, on Linux (prctl(2))."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if parent and os.getppid() != parent:  # it ended before the call above
        sys.exit(errors.FAILED)


def die_with_root(parent: int, root: Mapping[str, Any]) -> None:
    """End this process when its parent or `root` does, which a launcher may have put between them.

    A thread looks twice a second: one SIGTERM comes of it, where PR_SET_PDEATHSIG beside it might
    send a second one, which ends a run without saving.
    """
    once(
        lambda: os.getppid() != parent or is_gone(root),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
    )


def once(due: Callable[[], bool], act: Callable[[], None]) -> None:
    """Start a thread that does `act` once `due` says True; it looks twice a second."""

    def watch() -> None:
        while not due():
            time.sleep(POLL_SECONDS)
        act()

    threading.Thread(target=watch, name="watch", daemon=True).start()


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process that `this_process` described has ended; False on another host."""
    if process["host"] != socket.gethostname():
        return False
    try:
        found = psutil.Process(process["pid"])
        alive = found.create_time() == process["created"]
        return not alive or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def main(argv: list[str] | None = None) -> int:
    """Run the job in the file that the one argument names; its exit code."""
    (path,) = sys.argv[1:] if argv is None else argv
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # a launcher's worker may have it
    job = Job(**json.loads(Path(path).read_text()))
    if job.root is None:
        die_with_parent(job.parent)
    else:
        die_with_root(job.parent, job.root)
    if job.label:
        sys.stdout, sys.stderr = Labelled(sys.stdout, job.label), Labelled(sys.stderr, job.label)
    try:
        return execute(job)
    finally:
        Path(path).unlink(missing_ok=True)  # whoever waited for this may be gone


if __name__ == "__main__":
    leave(main())
