"""Sends what was measured to every place that shows it: TensorBoard, metrics.jsonl, the console.

Tags of its own:
    optimizer/learning_rate: of the interval's last step.

A new metric is a function from a `Window` to its tags, added to `sources`.
"""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mpt.console import Console
from mpt.run_folder import METRICS, RunFolder
from mpt.state_fields import Fields, whole
from mpt.telemetry import loss_scale, memory, throughput
from mpt.telemetry.histograms import ExponentHistograms
from mpt.telemetry.tensorboard import PREFIX, Board
from mpt.telemetry.window import Window
from mpt.whole_file import sync

Source = Callable[[Window], dict[str, float]]
SOURCES: tuple[Source, ...] = (throughput.tags, memory.tags, loss_scale.tags)


class Recorder:
    """Records each logged step.

    Args:
        sources: what is computed from each window, besides the training metrics.
        total_steps: steps of the whole run, for the console's progress.
        board: None where telemetry.tensorboard is off.
        histograms: the gradients' exponents, read where the window has a step that was counted;
            None where nothing is counted.
    """

    def __init__(
        self,
        folder: RunFolder,
        console: Console,
        board: Board | None,
        sources: Iterable[Source],
        *,
        total_steps: int,
        steps_per_epoch: int,
        histograms: ExponentHistograms | None = None,
    ):
        self._folder = folder
        self._console = console
        self._board = board
        self._sources = tuple(sources)
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._histograms = histograms
        self._started = time.perf_counter()
        self._step = 0
        self._sizes: tuple[int, dict[str, int]] | None = None  # of the files, to be cut to

    def state(self) -> dict[str, Any]:
        """How far the files have come, on the disk, and what is yet to be written to them."""
        metrics, events = self._folder.path / METRICS, self._event_files()
        for path in (metrics, *events):
            sync(path)
        return {
            "step": self._step,
            "metrics": self._folder.size(metrics),
            "events": {path.name: self._folder.size(path) for path in events},
            "seconds": self._seconds(),
            "histograms": self._histograms.state() if self._histograms else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` says; `apply` then takes back what was written since.

        Raises:
            ValueError: it is no such state.
        """
        kept = Fields(state, "step", "metrics", "events", "seconds", "histograms")
        step, metrics = kept.whole("step"), kept.whole("metrics")
        events = {name: whole(size, name) for name, size in kept.mapping("events").items()}
        seconds = kept.seconds("seconds")
        if self._histograms and not kept.is_none("histograms"):
            self._histograms.restore(state["histograms"])
        self._started = min(self._started, time.perf_counter() - seconds)
        self._step, self._sizes = step, (metrics, events)

    def apply(self) -> None:
        """Take back all that was written since, so that no step is recorded twice."""
        if self._sizes is None:
            return
        (metrics, events), self._sizes = self._sizes, None
        self._folder.cut_metrics(metrics)
        if self._board is None:
            return
        self._board.close()
        for path in self._event_files():
            if path.name in events:
                self._folder.cut(path, events[path.name])
            else:
                path.unlink(missing_ok=True)
        self._board.begin_file(self._step + 1)

    def _event_files(self) -> list[Path]:
        return sorted(self._folder.tensorboard.glob(f"{PREFIX}*"))

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def record(self, step: int, window: Window | None, validation: dict[str, float]) -> None:
        """Write one row: the tags of `window`, if there is one, and the `validation/*` values.

        A row of metrics.jsonl has the step, its epoch, and the seconds since training began, too.
        """
        self._step = step
        values: dict[str, float] = {}
        if window is not None:
            values |= window.train_values
            if window.learning_rate is not None:
                values["optimizer/learning_rate"] = window.learning_rate
            for source in self._sources:
                values |= source(window)
        values |= validation
        row: dict[str, Any] = {
            "step": step,
            "epoch": math.ceil(step / self._steps_per_epoch),
            "wall_seconds": self._seconds(),
        }
        self._folder.append_metrics({**row, **values})
        if self._board is not None:
            self._board.scalars(step, values)
            if window is not None and self._histograms and self._histograms.within(window):
                self._write_histograms(self._board, self._histograms)
            self._board.flush()
        if window is not None:
            self._console.step(step, self._total_steps, values)
        if validation:
            self._console.validation(step, validation)

    def _write_histograms(self, board: Board, histograms: ExponentHistograms) -> None:
        for spread in histograms.read():
            board.histogram(spread.tag, spread.step, spread.buckets, spread.description)
