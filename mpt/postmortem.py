"""The report of a run that could not write its own: killed, or crashed before its end."""

import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mpt import errors, report
from mpt.errors import ConfigurationError
from mpt.printable import path_text
from mpt.report import RunReport
from mpt.run_folder import LOG, METRICS, REPORT, TENSORBOARD, RunFolder, read_metrics
from mpt.schema import TrainConfig

# From outside; a run that ends itself by another signal has crashed.
KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
STATUSES = {
    errors.DIVERGED: "diverged",
    errors.OUT_OF_MEMORY: "oom",
    errors.SAVED: "interrupted",
    errors.INTERRUPTED: "interrupted",
}
_CGROUP = Path("/sys/fs/cgroup/memory.events")
_VMSTAT = Path("/proc/vmstat")


def oom_kills() -> Callable[[], bool]:
    """A question to ask later: did the kernel kill a process for want of memory since now?"""
    before = _counts()
    return lambda: any(now > before.get(source, now) for source, now in _counts().items())


def _counts() -> dict[Path, int]:
    found: dict[Path, int] = {}
    for source in (_CGROUP, _VMSTAT):
        try:
            lines = source.read_text().splitlines()
        except OSError:
            continue
        counted = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if "oom_kill" in counted:
            found[source] = int(counted["oom_kill"])
    return found


def write(
    folder: Path,
    config: TrainConfig,
    *,
    command: list[str],
    exit_code: int,
    started: float,
    oom_suspected: bool = False,
    message: str | None = None,
) -> None:
    """Write the report of the run in `folder`, from what it left there, where it has none.

    Nothing is written for a run that trained, or never began: its input was wrong, or it was to go
    on and the report of how it ended before is still there, which it takes away when it begins.
    Where the report cannot be written that is said.

    Args:
        exit_code: of its process; negative where a signal ended it.
        started: seconds since the epoch.
        oom_suspected: the kernel killed a process for want of memory while the run was going on.
        message: what is known of the cause besides.
    """
    if exit_code in (errors.OK, errors.INVALID) or (folder / REPORT).exists():
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    content = RunReport(
        run_id=folder.name,
        name=config.name,
        command=command,
        started_at=report.timestamp(started),
        config=asdict(config),
        ended_at=report.timestamp(time.time()),
    )
    if config.name == "auto":
        content.name = f"{config.model.get('name', 'model')}_{config.precision.policy}"
    content.environment = report.environment()
    content.precision.requested = config.precision.policy
    content.training.batch_size = config.batch_size if isinstance(config.batch_size, int) else None
    _read_rows(content, folder)
    content.status, content.reason = _cause(exit_code, oom_suspected, content.training.steps)
    content.reason.message = message or content.reason.message
    # As a shell has it: the report's exit codes are those that a process can have.
    content.exit_code = exit_code if exit_code >= 0 else 128 - exit_code
    artifacts = {"metrics": METRICS, "log": LOG, "tensorboard": TENSORBOARD}
    content.artifacts = {k: name for k, name in artifacts.items() if (folder / name).exists()}
    try:
        with RunFolder(folder) as run:
            run.write_json(REPORT, content.to_json())
        if (folder / TENSORBOARD).is_dir():
            _end_session(folder, content)
    except OSError as error:  # a full disk, say, of which a run that ended by itself has told
        if exit_code < 0:
            what = f"{content.reason.message}; its report cannot be written: {error.strerror}."
            print(f"error: {what}\n  where:   {path_text(folder)}", file=sys.stderr)


def _end_session(folder: Path, content: RunReport) -> None:
    """Tell TensorBoard's HParams page that the run failed, in an event file of its own."""
    # Here, for it takes half a second to import.
    from mpt.telemetry import hparams
    from mpt.telemetry.tensorboard import Board

    with Board(folder / TENSORBOARD) as board:
        hparams.end(board, content)


def _cause(code: int, oom_suspected: bool, step: int | None) -> tuple[str, report.Reason]:
    if code >= 0:
        message = f"exit code {code}, before it wrote its report; its output says why"
        return STATUSES.get(code, "failed"), report.Reason("exit", step, message)
    name = signal.Signals(-code).name
    if -code not in KILLS:
        return "failed", report.Reason("crash", step, f"{name} ended it from within")
    if -code == signal.SIGKILL and oom_suspected:
        message = (
            f"{name} ended it while the kernel killed for want of memory: "
            "a smaller batch_size, or fewer jobs at once"
        )
        return "killed", report.Reason("oom_suspected", step, message)
    return "killed", report.Reason("killed", step, f"{name} ended it from outside")


def _read_rows(content: RunReport, folder: Path) -> None:
    """How far the run came, by its metrics.jsonl."""
    try:
        rows = read_metrics(folder)
    except ConfigurationError:
        return
    latest: dict[str, float] = {}
    for row in rows:
        latest |= {tag: value for tag, value in row.items() if type(value) in (int, float)}
    content.training.steps = _whole(latest.get("step"))
    content.metrics.final = {
        tag: value for tag, value in latest.items() if tag.startswith(("train/", "validation/"))
    }
    content.loss_scale.final = latest.get("loss_scale/scale")
    content.loss_scale.skipped_steps = _whole(latest.get("loss_scale/skipped_steps"))


def _whole(value: float | None) -> int | None:
    """A count, which metrics.jsonl may have as a float; None where it is none."""
    return int(value) if value is not None and math.isfinite(value) else None
