"""The checkpoints of one run: `RUN/checkpoints/step-00000500.ckpt`.

Kept are the newest ones, the one of the best evaluation, and the newest that is fit to go back to.
A file that turns out broken is told of and passed over; it is kept beside the others, renamed.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt.checkpoint.file import PARTIAL, BrokenCheckpoint, read, read_header, write
from mpt.run_folder import CHECKPOINTS

NONE_YET = ".none-yet"
_NAME = re.compile(r"step-(\d{8,})\.ckpt")


@dataclass(frozen=True)
class Found:
    """A checkpoint that was read whole.

    Attributes:
        path: its file.
        step: the step after which it was written.
        state: what was written, arrays read-only.
        broken: newer ones that had to be passed over, each with what is wrong with it.
    """

    path: Path
    step: int
    state: dict[str, Any]
    broken: tuple[tuple[Path, str], ...] = ()


class Checkpoints:
    """The checkpoints in `run_dir`. The folder is made by `begin`, or with the first.

    Args:
        keep: how many of the newest are kept.
        keep_best: whether the one of the best evaluation is kept, too.
    """

    def __init__(self, run_dir: Path, *, keep: int = 1, keep_best: bool = False):
        self.folder = run_dir / CHECKPOINTS
        self._keep = keep
        self._keep_best = keep_best

    def begin(self) -> None:
        """Make the folder, with a sign that it has none yet.

        It tells a run whose disk was full from one whose checkpoints were taken away.

        Raises:
            OSError: it cannot be made.
        """
        self.folder.mkdir(exist_ok=True)
        (self.folder / NONE_YET).touch()

    @property
    def none_yet(self) -> bool:
        """Whether the run is known to have written none."""
        return (self.folder / NONE_YET).exists()

    def save(
        self, step: int, state: Mapping[str, Any], *, healthy: bool = True, best: bool = False
    ) -> Path:
        """Write the checkpoint of `step`, then delete those that are no longer kept.

        Args:
            healthy: fit to go back to: no streak of skipped steps, no exploding loss.
            best: of the best evaluation so far.

        Raises:
            OSError: it cannot be written; those that were there still are.
        """
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step-{step:08d}.ckpt"
        write(path, state, {"step": step, "healthy": healthy, "best": best})
        with suppress(OSError):
            (self.folder / NONE_YET).unlink()
        self._prune()
        return path

    def newest(self, *, healthy: bool = False) -> Found | None:
        """The newest whole checkpoint; None where there is none at all.

        Args:
            healthy: only of those that are fit to go back to.

        Raises:
            BrokenCheckpoint: there are some, and every one is broken or unfit, or they cannot be
                listed.
        """
        broken: list[tuple[Path, str]] = []
        unfit: list[tuple[Path, str]] = []
        try:
            candidates = self._listed()
        except OSError as error:
            raise BrokenCheckpoint(f"{self.folder.name}: {error.strerror}") from error
        for step, path in reversed(candidates.items()):
            try:
                about = read_header(path)
                if healthy and not about.get("healthy"):
                    unfit.append((path, "the run was not fit to go back to then"))
                    continue
                if about.get("step", step) != step:
                    raise BrokenCheckpoint(f"it is that of step {about['step']}, by what it says")
                return Found(path, step, read(path), tuple(broken))
            except BrokenCheckpoint as error:
                broken.append((path, str(error)))
        if candidates:
            useless = [f"{path.name}: {what}" for path, what in [*broken, *unfit]]
            raise BrokenCheckpoint("; ".join(useless))
        return None

    def best(self) -> Path | None:
        """The file of the best evaluation."""
        found = [path for path in self.steps().values() if self._about(path).get("best")]
        return found[-1] if found else None

    def last(self, *, healthy: bool = False) -> Path | None:
        """The newest file, or the newest that is fit to go back to; it is not read."""
        found = [
            path
            for path in self.steps().values()
            if not healthy or self._about(path).get("healthy")
        ]
        return found[-1] if found else None

    def at(self, step: int) -> Found | None:
        """The checkpoint of `step`; None where there is none.

        Raises:
            BrokenCheckpoint: it is no whole one.
        """
        path = self.steps().get(step)
        return None if path is None else Found(path, step, read(path), ())

    def steps(self) -> dict[int, Path]:
        """Step -> file, whole or not, from the oldest to the newest; none that cannot be listed."""
        try:
            return self._listed()
        except OSError:
            return {}

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: the run has gone back before them."""
        for later, path in self.steps().items():
            if later > step:
                with suppress(OSError):  # they are deleted again once newer ones are written
                    path.unlink(missing_ok=True)

    def go_on_from(self, found: Found | None) -> None:
        """Put what is later out of the way: broken files aside, and those of an abandoned path."""
        if found is not None:
            for path, _ in found.broken:
                path.rename(_free(path.with_name(f"{path.name}.broken")))
            self.forget_after(found.step)
        for path in self.folder.glob(f"{PARTIAL}*"):  # what a killed process had begun to write
            path.unlink(missing_ok=True)

    def _listed(self) -> dict[int, Path]:
        try:
            names = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        except FileNotFoundError:
            return {}
        return dict(sorted((int(path.name[5:-5]), path) for path in names))

    def _prune(self) -> None:
        steps = self.steps()
        kept = list(steps)[-self._keep :]
        about = {step: self._about(path) for step, path in steps.items()}
        kept += [step for step in steps if about[step].get("healthy")][-1:]
        if self._keep_best:
            best = [step for step in steps if about[step].get("best")]
            # A run that goes back behind the newest has the one before as its best again.
            kept += [*best[-1:], *[step for step in best if about[step].get("healthy")][-1:]]
        for step, path in steps.items():
            if step not in kept:
                with suppress(OSError):  # the new one is written all the same
                    path.unlink()

    def _about(self, path: Path) -> dict[str, Any]:
        try:
            return read_header(path)
        except BrokenCheckpoint:
            return {}


def _free(path: Path) -> Path:
    """`path`, or where that is taken, the same with -2, -3 and so on behind it."""
    count, free = 1, path
    while os.path.lexists(free):
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free
