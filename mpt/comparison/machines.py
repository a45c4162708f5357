"""Which runs shared a machine while they ran: their times say nothing of their settings."""

from collections.abc import Sequence
from datetime import datetime

from mpt.comparison.result import Group, Run

# A run's end and the next one's start are written by different processes.
SLACK_SECONDS = 1.0


def mark_shared(groups: Sequence[Group]) -> None:
    """Set `concurrent` of the groups that hold a run that was not alone."""
    shared = overlapping([run for group in groups for run in group.runs])
    for group in groups:
        if any(id(run) in shared for run in group.runs):
            group.concurrent = True


def overlapping(runs: Sequence[Run]) -> set[int]:
    """`id` of each run that was at work on one host at the same time as another.

    Two runs that counted the machine's jobs, and found none but themselves, ran on two machines
    of one name.
    """
    by_host: dict[str, list[tuple[float, float, Run]]] = {}
    for run in runs:
        host, times = run.report.environment.host, _times(run)
        if host is not None and times is not None:
            by_host.setdefault(host, []).append((*times, run))
    found: set[int] = set()
    for entries in by_host.values():
        entries.sort(key=lambda entry: entry[0])
        active: list[tuple[float, Run]] = []
        for start, end, run in entries:
            active = [each for each in active if each[0] - start > SLACK_SECONDS]
            for _, other in active:
                if not (_was_alone(run) and _was_alone(other)):
                    found |= {id(run), id(other)}
            if end - start > SLACK_SECONDS:
                active.append((end, run))
    return found


def _was_alone(run: Run) -> bool:
    return run.report.device.concurrent_jobs == 1


def _times(run: Run) -> tuple[float, float] | None:
    """Start and end, seconds since the epoch; None where they are not recorded."""
    try:
        start = datetime.fromisoformat(run.report.started_at).timestamp()
        end = datetime.fromisoformat(run.report.ended_at or "").timestamp()
    except ValueError:
        return None
    return start, end
