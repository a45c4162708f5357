"""Keras's own `fit` says what its callbacks are told, and when."""

import keras
import numpy as np
import pytest

from mpt.hooks import Hooks
from mpt.loop import metric_values
from mpt.progress import Schedule

STEPS_PER_EPOCH, EPOCHS, ROWS = 3, 2, 4


class Noting(keras.callbacks.Callback):
    """Notes each call, and the names in its logs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int | None, list[str]]] = []

    def on_train_begin(self, logs=None):
        self.calls.append(("train begins", None, []))

    def on_train_end(self, logs=None):
        self.calls.append(("train ends", None, []))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch begins", epoch, []))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch ends", epoch, sorted(logs)))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch, []))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch ends", batch, sorted(logs)))

    def on_test_begin(self, logs=None):
        self.calls.append(("test begins", None, []))

    def on_test_end(self, logs=None):
        self.calls.append(("test ends", None, sorted(logs)))


def model() -> keras.Model:
    built = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    built.compile(optimizer="sgd", loss="mse")
    return built


def arrays(batches: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((batches * ROWS, 2), "float32"), np.zeros((batches * ROWS, 1), "float32")


def by_fit() -> list[tuple[str, int | None, list[str]]]:
    noting = Noting()
    x, y = arrays(STEPS_PER_EPOCH)
    model().fit(
        *(x, y),
        batch_size=ROWS,
        epochs=EPOCHS,
        validation_data=arrays(1),
        callbacks=[noting],
        verbose=0,
    )
    return noting.calls


def by_hooks(callbacks: list[keras.callbacks.Callback], trained: keras.Model) -> None:
    total = STEPS_PER_EPOCH * EPOCHS
    hooks = Hooks(
        callbacks,
        trained,
        Schedule(total, STEPS_PER_EPOCH, log_every=1, eval_every=STEPS_PER_EPOCH),
    )
    hooks.begin_training()
    for step in range(total):
        hooks.begin_steps(step)
        trained.train_on_batch(*arrays(1))
        hooks.end_steps(step + 1)
        if (step + 1) % STEPS_PER_EPOCH == 0:
            hooks.begin_validation()
            hooks.end_validation({"loss": 0.5})
            hooks.end_epoch(step + 1, {"train/loss": 1.0, "validation/loss": 0.5})
    hooks.end_training()


def test_callbacks_are_told_what_fit_tells_them_and_in_its_order() -> None:
    noting = Noting()
    by_hooks([noting], model())
    assert noting.calls == by_fit()


def test_metrics_are_not_read_where_nobody_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def reading(of: keras.Model) -> dict[str, float]:
        read.append(of)
        return metric_values(of)

    monkeypatch.setattr("mpt.hooks.metric_values", reading)
    by_hooks([], model())
    assert read == []
    by_hooks([keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)], model())
    assert len(read) == EPOCHS, "after each epoch, and not after each step"


def test_metrics_begin_anew_with_each_epoch() -> None:
    trained = model()
    hooks = Hooks([], trained, Schedule(4, 2, log_every=1, eval_every=2))
    trained.train_on_batch(*arrays(1))
    hooks.begin_steps(1)
    assert metric_values(trained)["loss"] > 0
    hooks.begin_steps(2)
    assert metric_values(trained)["loss"] == 0
