"""Batches on their way to a device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import arrays, feeding

RANDOM = np.random.default_rng(0)


def built(path, x=None, **more):
    if x is None:
        x = RANDOM.integers(0, 256, (40, 4, 4, 1), np.uint8)
    np.savez(path / "data.npz", x=x, y=np.arange(len(x)) % 3)
    settings = {"batch_size": 8, "seed": 0, "validation_fraction": 0.25, **more}
    return arrays.build(path=str(path / "data.npz"), **settings)


def fed(data, device="/CPU:0", first_cast="bfloat16", ahead=0):
    return feeding.fed(data, device=device, first_cast=first_cast, ahead=ahead)


def first(dataset, count=3):
    return [(x, y) for x, y in dataset.take(count)]


def test_small_numbers_travel_in_half_precision_and_labels_as_they_are(tmp_path):
    data = built(tmp_path)
    found = fed(data)
    assert data.bounded
    assert [spec.dtype for spec in found.element_spec] == [tf.bfloat16, tf.int32]
    for (x, y), (x2, y2) in zip(first(data.train), first(found.train), strict=True):
        np.testing.assert_array_equal(tf.cast(x, tf.bfloat16), x2)
        np.testing.assert_array_equal(y, y2)
    for (x, y), (x2, y2) in zip(first(data.validation), first(found.validation), strict=True):
        np.testing.assert_array_equal(tf.cast(x, tf.bfloat16), x2)
        np.testing.assert_array_equal(y, y2)
    (x, _), (x2, _) = next(iter(data.at(7))), next(iter(found.at(7)))
    np.testing.assert_array_equal(tf.cast(x, tf.bfloat16), x2)


@pytest.mark.parametrize(
    "x",
    [
        np.full((40, 4), 1e5, np.float32),  # infinite in float16
        np.ones((40, 4), np.int32),
    ],
)
def test_other_inputs_are_left_to_the_model(tmp_path, x):
    data = built(tmp_path, x)
    found = fed(data, first_cast="float16")
    assert found.element_spec == data.element_spec


def test_without_a_cast_or_a_device_nothing_changes(tmp_path):
    data = built(tmp_path)
    assert fed(data, device=None) is data
    assert fed(data, first_cast=None).element_spec == data.element_spec


@pytest.mark.slow
def test_batches_wait_on_a_device_and_the_loops_read_them_there(tmp_path):
    built(tmp_path)
    script = Path(__file__).with_name("fed_ahead.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "data.npz"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
