"""A run's part in a team of workers: how it begins, and how it ends where a member is lost."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from mpt import errors
from mpt.errors import ConfigurationError
from mpt.leaving import leave_at_once
from mpt.printable import printable
from mpt.resuming import flat
from mpt.schema import TrainConfig
from mpt.workers import ALONE, Team, WorkerLost, assemble, from_environment
from mpt.workers.cluster import own_gpus

NEWS_SECONDS = 3.0
"""s in which a loss is known of that an error of TensorFlow's may come from."""

STUCK_SECONDS = 25.0
"""s after a loss in which a process must have ended; it may be inside TensorFlow, and wait."""

REPORT_SECONDS = 15.0
"""s after which its report is written from outside of the main thread."""

OWN = ("run_dir", "resume", "device.worker_seconds")
"""Keys that each worker may have for itself."""


@contextmanager
def joined(config: TrainConfig) -> Iterator[Team]:
    """The team that this process trains in: of one, unless device.strategy is multi_worker.

    Where the block ends by an error the others are told of it.

    Raises:
        ConfigurationError: the others are not to be met, or have another configuration.
        WorkerLost: one has gone within the block.
    """
    if config.device.strategy != "multi_worker":
        yield ALONE
        return
    cluster = from_environment(os.environ)
    if (gpus := own_gpus(os.environ, cluster)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    settings = {k: v for k, v in flat(asdict(config)) if k not in OWN}
    team = assemble(cluster, settings, config.device.worker_seconds)
    team.when_lost(_abort)
    try:
        with translated(team):
            yield team
    except BaseException as error:
        team.leave(error.message if isinstance(error, ConfigurationError) else _words(error))
        raise


@contextmanager
def translated(team: Team) -> Iterator[None]:
    """Raise WorkerLost for an error that came of a lost member, such as TensorFlow's."""
    try:
        yield
    except (ConfigurationError, WorkerLost):
        raise
    except Exception as error:
        if team.size > 1 and (lost := team.learn(NEWS_SECONDS)) is not None:
            raise WorkerLost(lost) from error
        raise


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _abort(lost: str) -> None:
    """Wake the main thread out of an operation that waits for the lost one; in time, end it."""
    if "tensorflow.python.eager" in sys.modules:
        from tensorflow.python.eager import context
        from tensorflow.python.framework.errors_impl import UNAVAILABLE

        with suppress(Exception):  # there is nothing to abort yet
            context.context().abort_collective_ops(UNAVAILABLE, lost)
    later(STUCK_SECONDS, lambda: leave_at_once(errors.FAILED, f"error: {printable(lost)}"))


def later(seconds: float, act: Callable[[], object]) -> None:
    """Have `act` called from another thread, if the process is still there then."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
