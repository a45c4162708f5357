"""Keras callbacks driven from outside `fit`."""

import keras

from mpt.loop import metric_values
from mpt.progress import Schedule, Values, epochs

VALIDATION = "validation/"


class Hooks:
    """Callbacks, and Keras's History, called as `fit` would call them.

    Attributes:
        all: they, with the History.
    """

    def __init__(
        self,
        callbacks: list[keras.callbacks.Callback],
        model: keras.Model,
        schedule: Schedule,
    ):
        model.stop_training = False
        self._own, self._model = callbacks, model
        self._steps_per_epoch = schedule.steps_per_epoch
        self._wants_batches = _wants_batches(callbacks)
        self._list = keras.callbacks.CallbackList(
            callbacks,
            add_history=True,
            add_progbar=False,
            model=model,
            epochs=epochs(schedule.total_steps, schedule.steps_per_epoch),
            steps=schedule.steps_per_epoch,
            verbose=0,
        )
        self.all: list[keras.callbacks.Callback] = self._list.callbacks

    def begin_training(self) -> None:
        self._list.on_train_begin()

    def end_training(self) -> None:
        self._list.on_train_end()

    def begin_steps(self, step: int) -> None:
        """Steps follow on `step`, and perhaps an epoch begins with them."""
        epoch, batch = divmod(step, self._steps_per_epoch)
        if batch == 0:
            self._model.reset_metrics()
            self._list.on_epoch_begin(epoch)
        self._list.on_train_batch_begin(batch)

    def end_steps(self, step: int) -> None:
        """`step` is the last that was trained on."""
        # A callback of batches wants numbers, which cost a synchronization; others do without.
        logs = metric_values(self._model) if self._wants_batches else {}
        self._list.on_train_batch_end((step - 1) % self._steps_per_epoch, logs)

    def end_epoch(self, step: int, final: Values) -> None:
        """`step` ends an epoch, or training.

        Args:
            final: the last value of each tag, of which those of validation go into the logs.
        """
        # To read metrics waits for the device: only where a callback will look at them.
        metrics = metric_values(self._model) if self._own else {}
        validation = {
            f"val_{tag.removeprefix(VALIDATION)}": value
            for tag, value in final.items()
            if tag.startswith(VALIDATION)
        }
        self._list.on_epoch_end((step - 1) // self._steps_per_epoch, {**metrics, **validation})

    def begin_validation(self) -> None:
        self._list.on_test_begin()

    def end_validation(self, result: Values) -> None:
        self._list.on_test_end(result)


def _wants_batches(callbacks: list[keras.callbacks.Callback]) -> bool:
    """Whether one of them does something after each batch."""
    base = keras.callbacks.Callback
    return any(
        type(callback).on_train_batch_end is not base.on_train_batch_end
        or type(callback).on_batch_end is not base.on_batch_end
        for callback in callbacks
    )
