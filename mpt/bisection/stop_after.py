"""A short training that is the beginning of the long one."""

from typing import Any

import keras


class StopAfter(keras.callbacks.Callback):
    """Ends training after `steps` steps, and leaves its length, and so its schedules, alone.

    Args:
        steps: training steps, counted from the run's start, skipped ones too.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self._before = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note how many steps came before this epoch."""
        self._before = epoch * self.params["steps"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Ask for the end once the steps are done; `batch` counts from 0 in its epoch."""
        if self._before + batch + 1 >= self.steps:
            self.model.stop_training = True
