"""Hydra's launchers, whichever they are, as a sweep sees them.

A launcher is a plugin that runs a sweep's jobs: one after the other in this process (`basic`),
several at once on this machine (`joblib`), or on a cluster (`submitit_slurm`, `ray`). What is here
learns from any of them which jobs there will be, before they start, and keeps the loss of one job
and an interrupt from ending the others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from mpt.errors import INTERRUPTED, LauncherError, ended_by
from mpt.interrupts import ASKING

Plan = Callable[[Any, Any, Sequence[Sequence[str]], int], None]
"""Given Hydra's configuration, its loader, the jobs' overrides and the first one's number."""


@contextmanager
def planned(plan: Plan) -> Iterator[None]:
    """Have `plan` told of each batch of jobs before a launcher gets it; what it raises ends all."""
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    class Planned(Launcher):
        """A launcher that first says what it will launch."""

        def __init__(self, launcher: Launcher, config: Any, hydra_context: Any):
            self._launcher = launcher
            self._config, self._loader = config, hydra_context.config_loader

        def setup(self, **_: Any) -> None:
            """It was set up before it came here."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Any:
            plan(self._config, self._loader, job_overrides, initial_job_idx)
            name = launcher_of(self._config.hydra)
            if name == "basic":
                return self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
            with _interrupts_kept_from_workers(), SETTINGS.get(name, nullcontext)(self._launcher):
                try:
                    return self._launcher.launch(job_overrides, initial_job_idx=initial_job_idx)
                except Exception as error:
                    first = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise LauncherError(f"{name}: {first}") from error

    instantiate = Plugins.instantiate_launcher

    def wrapped(self: Any, hydra_context: Any, task_function: Any, config: Any) -> Launcher:
        launcher = instantiate(self, hydra_context, task_function, config)
        if launcher_of(config.hydra) == "basic":
            _compose_once(hydra_context.config_loader)
        return Planned(launcher, config, hydra_context)

    Plugins.instantiate_launcher = wrapped
    try:
        yield
    finally:
        Plugins.instantiate_launcher = instantiate


def launcher_of(hydra: Any) -> str:
    """The launcher's name in Hydra's own configuration; `basic` runs jobs in this process."""
    return str(hydra.runtime.choices.get("hydra/launcher") or "basic")


def _compose_once(loader: Any) -> None:
    """Have `loader` hand out, once, what it composed before instead of composing it again.

    Hydra's sweeper composes all jobs to find mistakes before any has run, and its launcher in this
    process does so again: a quarter of a second a job.
    """
    compose = loader.load_sweep_config
    kept: dict[tuple[str, ...], Any] = {}

    def composed(master_config: Any, sweep_overrides: list[str]) -> Any:
        key = tuple(map(str, sweep_overrides))
        if key in kept:
            return kept.pop(key)
        kept[key] = compose(master_config, sweep_overrides)
        return kept[key]

    loader.load_sweep_config = composed


@contextmanager
def _interrupts_kept_from_workers() -> Iterator[None]:
    """Start processes with SIGINT blocked: the terminal's ^C would end a launcher's own ones.

    A blocked signal stays blocked in a process started so, from its first instruction on.
    Meanwhile a thread takes this process's interrupts; its main thread handles them when it wakes,
    and every launcher's does, several times a second.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _start_trackers()
    over = threading.Event()
    threading.Thread(target=over.wait, name="interrupts", daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()


def _start_trackers() -> None:
    """Start the processes that keep track of resources: whoever starts one unblocks SIGINT."""
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    with suppress(ImportError):
        from joblib.externals.loky.backend import resource_tracker as joblibs

        joblibs.ensure_running()


@contextmanager
def _every_result_awaited(launcher: Any) -> Iterator[None]:
    """Have submitit's launcher wait for all jobs, where it would give up at the first lost one.

    A job without a result was lost with its node, cancelled, or out of its time. The jobs' output
    does not come here, so it is said where it goes.
    """
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job

    kind: Any = Job
    results = kind.results

    def awaited(job: Any) -> list[Any]:
        try:
            return results(job)
        except Exception as error:
            print(f"lost a job: {str(error).splitlines()[0]}", file=sys.stderr)
            lost = JobReturn(status=JobStatus.COMPLETED)
            lost.return_value = None
            return [lost]

    output = str(launcher.params["submitit_folder"]).replace("%j", "*/*.out")
    print(f"the jobs' output: {output}", file=sys.stderr)
    kind.results = awaited
    try:
        yield
    finally:
        kind.results = results


@contextmanager
def _cluster_as_it_is(launcher: Any) -> Iterator[None]:
    """Have Ray hand on all the jobs' lines, and colour them on a terminal only.

    Hydra's launcher asks for an object store of its own, which a cluster that runs already refuses.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    init = launcher.ray_cfg.init
    if init.get("address") or os.environ.get("RAY_ADDRESS"):
        init.setdefault("object_store_memory", None)
    yield


SETTINGS = {
    "submitit_local": _every_result_awaited,
    "submitit_slurm": _every_result_awaited,
    "ray": _cluster_as_it_is,
}


class Stop:
    """A file that, once it is there, asks all jobs of a sweep to end, wherever they run."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self) -> bool:
        return self.path.exists()

    def set(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()


class Interruption:
    """Whether this process was interrupted; some libraries turn a KeyboardInterrupt into errors.

    Attributes:
        seen: it was.
        insisted: more than once: what was at work had to end at once.
        code: the exit code where there was nothing to save.
    """

    seen = False
    insisted = False
    code = INTERRUPTED


@contextmanager
def stopping(stop: Callable[[], Stop | None]) -> Iterator[Interruption]:
    """Let the first interrupt ask the jobs to end, and only a second one end this process.

    Workers of joblib are killed, children and all, when the process that waits for them is
    interrupted: no run could save what it has.

    Args:
        stop: where to ask; None, that no job runs elsewhere, leaves interrupts as they are.
    """
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        asked, again = stop(), interruption.seen
        interruption.seen, interruption.insisted = True, again
        interruption.code = INTERRUPTED if again else ended_by(number)
        if asked is None or again:
            signal.default_int_handler(number, frame)
        asked.set()
        print("stopping: the runs save what they have; ^C again ends them at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    previous = {each: signal.signal(each, handle) for each in ASKING}
    try:
        yield interruption
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def leave_interrupts_to_the_sweep() -> None:
    """Ignore the terminal's ^C in a launcher's worker: the sweep asks by its `Stop`."""
    if threading.current_thread() is threading.main_thread():
        # Not SIG_IGN, which the run's process would inherit.
        signal.signal(signal.SIGINT, lambda *_: None)
