"""A run's part in a team of workers: how it begins, and how it ends where a member is lost."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from mpt import errors
from mpt.dotted_names import flat
from mpt.errors import ConfigurationError
from mpt.leaving import leave_at_once
from mpt.printable import printable
from mpt.schema import TrainConfig
from mpt.workers import ALONE, Team, WorkerLost, assemble, from_environment
from mpt.workers.channel import SILENT_SECONDS
from mpt.workers.cluster import own_gpus

OF_A_CONNECTION = ("UnavailableError", "AbortedError", "DeadlineExceededError")
"""TensorFlow's errors that a lost member leaves, of which news is sure to come."""

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
    team.when_lost(lambda lost: _abort(team, lost))
    try:
        with translated(team):
            yield team
    except BaseException as error:
        team.leave(error if isinstance(error, ConfigurationError) else _words(error))
        raise


@contextmanager
def translated(team: Team) -> Iterator[None]:
    """Raise the error that a member's going is for one that came of it, such as TensorFlow's."""
    try:
        yield
    except (ConfigurationError, WorkerLost):
        raise
    except Exception as error:
        broken = type(error).__name__ in OF_A_CONNECTION
        team.learn(2 * SILENT_SECONDS if broken else NEWS_SECONDS)
        loss = team.loss()
        if loss is not None:
            raise loss from error
        raise


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return str(error).strip() or type(error).__name__


def _abort(team: Team, lost: str) -> None:
    """Wake the main thread out of an operation that waits for the lost one; in time, end it."""
    later(team, STUCK_SECONDS, lambda: leave_at_once(errors.FAILED, f"error: {printable(lost)}"))
    if "tensorflow.python.eager" in sys.modules:
        from tensorflow.python.eager import context
        from tensorflow.python.framework.errors_impl import UNAVAILABLE

        if context.context()._context_handle is not None:  # else that would begin it
            with suppress(Exception):
                context.context().abort_collective_ops(UNAVAILABLE, lost)


def later(team: Team, seconds: float, act: Callable[[], object]) -> None:
    """Have `act` called from another thread, if a loss still matters to the process then."""
    timer = threading.Timer(seconds, lambda: act() if team.watched else None)
    timer.daemon = True
    timer.start()
