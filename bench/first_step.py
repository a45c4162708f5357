"""A callback that says when the first step is done, to whoever reads the process's output."""

from typing import Any

import keras

LINE = "first step"


class FirstStep(keras.callbacks.Callback):
    """Prints `LINE` behind the first step of each epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 0:
            print(LINE, flush=True)
