"""Keras callbacks driven from outside `fit`."""

import keras

from mpt.progress import Schedule, epochs


def callback_list(
    callbacks: list[keras.callbacks.Callback], model: keras.Model, schedule: Schedule
) -> keras.callbacks.CallbackList:
    """`callbacks`, and Keras's History, as `fit` would call them; nothing of them is called yet."""
    model.stop_training = False
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=False,
        model=model,
        epochs=epochs(schedule.total_steps, schedule.steps_per_epoch),
        steps=schedule.steps_per_epoch,
        verbose=0,
    )


def wants_batches(callbacks: list[keras.callbacks.Callback]) -> bool:
    """Whether one of them does something after each batch."""
    base = keras.callbacks.Callback
    return any(
        type(callback).on_train_batch_end is not base.on_train_batch_end
        or type(callback).on_batch_end is not base.on_batch_end
        for callback in callbacks
    )
