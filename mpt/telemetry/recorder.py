"""Sends what was measured to every place that shows it: TensorBoard, metrics.jsonl, the console.

Tags of its own:
    optimizer/learning_rate: of the interval's last step.

A new metric is a function from a `Window` to its tags, added to `sources`.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from mpt.console import Console
from mpt.run_folder import RunFolder
from mpt.telemetry import loss_scale, memory, throughput
from mpt.telemetry.histograms import ExponentHistograms
from mpt.telemetry.tensorboard import Board
from mpt.telemetry.window import Window

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

    def record(self, step: int, window: Window | None, validation: dict[str, float]) -> None:
        """Write one row: the tags of `window`, if there is one, and the `validation/*` values.

        A row of metrics.jsonl has the step, its epoch, and the seconds since training began, too.
        """
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
            "wall_seconds": time.perf_counter() - self._started,
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
