"""Generated data: sizes, and that there is something to learn."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import synthetic
from mpt.errors import ConfigurationError


def whole(dataset: tf.data.Dataset, batches: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*dataset.take(batches).as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def test_class_means_classify_other_rows() -> None:
    data = synthetic.build(batch_size=50, seed=3, shape=(6, 5, 2), classes=4, examples=500)
    x, y = whole(data.train, data.steps_per_epoch)
    means = np.stack([x[y == label].mean(axis=0) for label in range(4)])
    x, y = whole(data.validation, data.validation_batches)
    distance = ((x[:, np.newaxis] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == y).mean() > 0.9
    assert (data.shape, data.classes) == ((6, 5, 2), 4)


def test_regression_is_linear() -> None:
    data = synthetic.build(
        batch_size=100, seed=0, shape=(5,), classes=None, outputs=2, examples=1000
    )
    x, y = whole(data.train, 8)
    weights, *_ = np.linalg.lstsq(x, y, rcond=None)
    assert y.shape == (800, 2)
    assert np.std(y - x @ weights) == pytest.approx(0.1, rel=0.1)
    assert data.classes is None


def test_next_tokens_follow() -> None:
    data = synthetic.build(batch_size=100, seed=0, vocabulary=7, length=12, examples=500)
    x, y = whole(data.train, 4)
    assert x.shape == y.shape == (400, 12)
    assert x.dtype == np.int32
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    counts = np.zeros((7, 7))
    np.add.at(counts, (x.ravel(), y.ravel()), 1)
    assert counts.max(axis=1).sum() / counts.sum() > 0.85
    assert (data.shape, data.classes) == ((12,), 7)


def test_content_is_the_same_for_every_seed() -> None:
    one, two = (synthetic.build(batch_size=8, seed=seed, examples=64) for seed in (0, 1))
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"vocabulary": 5}, "dataset.length"),
        ({"length": 5}, "dataset.vocabulary"),
        ({"vocabulary": 0, "length": 5}, "dataset.vocabulary"),
        ({"classes": 0}, "dataset.classes"),
        ({"shape": (4, 0)}, "dataset.shape[1]"),
        ({"examples": 0}, "dataset.examples"),
        ({"classes": None, "outputs": 0}, "dataset.outputs"),
        ({"shape": (10**6, 10**4)}, "dataset.examples"),
        ({"examples": 10}, "batch_size"),
    ],
)
def test_refused(arguments: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        synthetic.build(batch_size=16, seed=0, **arguments)
    assert caught.value.where == where
