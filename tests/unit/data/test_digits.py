"""The default dataset."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from mpt.data import digits


def test_content_is_scikit_learns() -> None:
    images, labels = digits.load()
    theirs = load_digits()
    pixels = images[..., 0] * digits.DEVIATION + digits.MEAN
    np.testing.assert_allclose(pixels, theirs.images, atol=1e-5)
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3
    np.testing.assert_array_equal(labels, theirs.target)


def test_without_the_file_scikit_learn_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digits.load()
    monkeypatch.setattr("pathlib.Path.is_file", lambda _: False)
    for ours, theirs in zip(digits.load(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_batches() -> None:
    data = digits.build(batch_size=128, seed=0)
    assert (data.train_examples, data.validation_examples) == (1438, 359)
    assert (data.steps_per_epoch, data.validation_batches) == (11, 3)
    assert (data.name, data.shape, data.classes) == ("digits", (8, 8, 1), 10)
    x, y = next(iter(data.train))
    assert (x.dtype, y.dtype) == (tf.float32, tf.int32)
    assert float(tf.reduce_min(x)) == pytest.approx(-digits.MEAN / digits.DEVIATION)


def test_every_fifth_scan_is_held_out_whatever_the_seed() -> None:
    held_out = digits.evenly(1797, 0.2)
    assert np.flatnonzero(held_out)[:3].tolist() == [4, 9, 14]
    assert held_out.sum() == 359
    first, second = (digits.build(batch_size=359, seed=seed) for seed in (0, 1))
    for a, b in zip(next(iter(first.validation)), next(iter(second.validation)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert digits.build(batch_size=10, seed=0, validation_fraction=0).validation is None


def test_examples_limits_the_rows() -> None:
    data = digits.build(batch_size=10, seed=0, examples=100)
    assert data.train_examples + data.validation_examples == 100
