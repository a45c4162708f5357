"""To which checkpoint a run that diverged goes back."""

from collections.abc import Callable

from mpt.checkpoint import Found
from mpt.checkpointing import Checkpointing
from mpt.workers import Team


def last_good(checkpoints: Checkpointing, team: Team, tell: Callable[[str], None]) -> Found | None:
    """The last good checkpoint: that which the chief has found, if all members find it.

    Args:
        tell: told of it where they do not.
    """
    found = checkpoints.last_healthy() if team.is_chief else None
    if team.size == 1:
        return found
    step = team.exchange(found.step if found is not None else None)[0]
    if step is None:
        return None
    if not team.is_chief:
        found = checkpoints.at(step)
    if team.any(found is None)[0]:
        tell(
            f"Not all workers find the checkpoint of step {step}: the run's folder must lie on "
            "storage that all of them share."
        )
        return None
    return found
