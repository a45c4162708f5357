"""When a run writes a checkpoint, and what it does where that fails."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mpt.checkpoint import BrokenCheckpoint, Checkpoints, Found
from mpt.errors import ConfigurationError


class Part(Protocol):
    """A part of a run that a checkpoint holds the state of."""

    def state(self) -> dict[str, Any]:
        """Plain values and NumPy arrays, from which `restore` makes it what it is now."""

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` says; ValueError where it does not fit. No file is changed.

        A part of files has `apply()`, too, which changes them once every part has its state.
        """


class Checkpointing:
    """Writes a run's checkpoints, every so many steps or minutes.

    Args:
        every: steps between two; None: not by steps.
        minutes: minutes between two; None: not by time.
        keep_best: write one at each best evaluation, too.
        tell: told of what could not be written or read.
        writing: False at a member of a team that is not its chief: it gives its share, and reads.
    """

    def __init__(
        self,
        store: Checkpoints,
        *,
        every: int | None,
        minutes: float | None,
        keep_best: bool,
        tell: Callable[[str], None],
        writing: bool = True,
    ):
        self._writing = writing
        self.store = store
        self.every = every
        self.keep_best = keep_best
        self._minutes = minutes
        self._tell = tell
        self._saved_at = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one is due after `step`."""
        if self.every is not None and step % self.every == 0:
            return True
        if self._minutes is None:
            return False
        return time.monotonic() - self._saved_at >= 60 * self._minutes

    def save(
        self, step: int, parts: Mapping[str, Part], *, healthy: bool, best: bool = False
    ) -> None:
        """Write the checkpoint of `step`. What fails is told."""
        state = {name: part.state() for name, part in parts.items()}
        try:
            if self._writing:
                self.store.save(step, state, healthy=healthy, best=best)
        except OSError as error:
            last = list(self.store.steps())[-1:]
            kept = f"the last one is that of step {last[0]}" if last else "there is none"
            self._tell(
                f"The checkpoint of step {step} cannot be written: {error.strerror}. "
                f"The run goes on; {kept}."
            )
        # A disk that is full is not tried again before the next one is due.
        self._saved_at = time.monotonic()

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps than `step`."""
        if self._writing:
            self.store.forget_after(step)

    def at(self, step: int) -> Found | None:
        """The checkpoint of that very step, as a member reads it that does not choose."""
        try:
            return self.store.at(step)
        except BrokenCheckpoint as error:
            self._tell(f"The checkpoint of step {step} is broken here: {error}.")
            return None

    def last_healthy(self) -> Found | None:
        """The newest checkpoint that the run can go back to."""
        try:
            found = self.store.newest(healthy=True)
        except BrokenCheckpoint as error:
            self._tell(f"No checkpoint can be gone back to: {error}.")
            return None
        for path, what in found.broken if found else ():
            assert found is not None
            self._tell(f"{path.name} is broken ({what}); {found.path.name} is used instead.")
        return found


class DoesNotFit(ConfigurationError):
    """A checkpoint is whole, but not one of the run as it is built now."""


def restore(parts: Mapping[str, Part], state: Mapping[str, Any]) -> None:
    """Give each part its state, and then let those of files change them, in their order.

    Raises:
        DoesNotFit: a state is missing or does not fit. No file has changed then.
    """
    missing = [name for name in parts if name not in state]
    if missing:
        raise _unfit(f"no {', '.join(missing)}")
    for name, part in parts.items():
        try:
            part.restore(state[name])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of many kinds: what the file says is not what a part expects
            what = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            raise _unfit(f"{name}: {what or type(error).__name__}") from error
    for part in parts.values():
        if (apply := getattr(part, "apply", None)) is not None:
            apply()


def _unfit(what: str) -> DoesNotFit:
    line = " ".join(what.split())  # what a file says may hold line breaks of any kind
    return DoesNotFit(
        f"The checkpoint does not fit the run ({line[:300]}).",
        where="resume",
        remedy="resume it with the code and the versions that it was begun with",
    )
