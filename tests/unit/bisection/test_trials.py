"""Short trainings: how long, and when they end."""

import types

import pytest

from mpt.bisection.stop_after import StopAfter
from mpt.bisection.trials import interval


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 60, 97, 200, 1000, 1024])
def test_intervals_end_on_the_last_step(steps):
    length = interval(steps)
    assert steps % length == 0
    assert steps // length >= min(4, steps)


@pytest.mark.parametrize(("steps", "expected"), [(200, 20), (100, 10), (20, 2), (97, 1), (1, 1)])
def test_about_ten_intervals(steps, expected):
    assert interval(steps) == expected


def stopped_at(callback, calls, steps_per_epoch):
    """The step at which a training that makes `calls`, each of so many steps, is ended."""
    callback.set_params({"steps": steps_per_epoch})
    model = types.SimpleNamespace(stop_training=False)
    callback._model = model
    step = 0
    for count in calls:
        if step % steps_per_epoch == 0:
            callback.on_epoch_begin(step // steps_per_epoch)
        callback.on_train_batch_end(step % steps_per_epoch + count - 1)
        step += count
        if model.stop_training:
            return step
    return None


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([1] * 30, 12),
        ([4, 6, 1, 1, 8], 12),
        ([5, 5, 2, 3, 5], 12),
        ([5, 5], None),
        ([10, 2, 8, 10], 12),
    ],
)
def test_a_training_ends_after_its_steps(calls, expected):
    assert stopped_at(StopAfter(12), calls, steps_per_epoch=10) == expected
