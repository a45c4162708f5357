"""mixup and CutMix: beside a reference in NumPy, labels that are shares, and their draws."""

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import mixtures
from mpt.data.pictures import Augmentation

CLASSES = 5


def cut_by_hand(x, y, weight, centre):
    """As the paper's published code, one image after the other."""
    height, width = x.shape[1:3]
    ratio = np.sqrt(np.float32(1) - weight, dtype=np.float32)
    tall, wide = int(ratio * np.float32(height)), int(ratio * np.float32(width))
    top, bottom = (min(max(centre[0] + side * (tall // 2), 0), height) for side in (-1, 1))
    left, right = (min(max(centre[1] + side * (wide // 2), 0), width) for side in (-1, 1))
    mixed, labels = x.copy(), np.zeros_like(y)
    for index in range(len(x)):
        other = len(x) - 1 - index
        mixed[index, top:bottom, left:right] = x[other, top:bottom, left:right]
        share = (bottom - top) * (right - left) / (height * width)
        labels[index] = (1 - share) * y[index] + share * y[other]
    return mixed, labels


def batch(rows=4, height=12, width=20):
    """Images that are the number of their row everywhere, each of a class of its own."""
    x = np.broadcast_to(np.arange(rows, dtype=np.float32)[:, None, None, None], (rows, 1, 1, 3))
    return np.tile(x, (1, height, width, 1)), np.arange(rows, dtype=np.int32)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("centre", [(6, 10), (0, 0), (11, 19), (3, 18)])
def test_a_box_is_cut_as_the_paper_cuts_it(weight, centre):
    x = np.random.default_rng(0).random((4, 12, 20, 3), np.float32)
    y = np.eye(CLASSES, dtype=np.float32)[:4]
    weight = np.float32(weight)
    found = mixtures.cut(tf.constant(x), tf.constant(y), tf.constant(weight), tf.constant(centre))
    expected_x, expected_y = cut_by_hand(x, y, weight, centre)
    np.testing.assert_array_equal(found[0], expected_x)
    np.testing.assert_allclose(found[1], expected_y, atol=1e-7)


def batches(count, position=0, seed=3, rows=4, **more):
    x, y = batch(rows)
    dataset = tf.data.Dataset.from_tensors((x, y)).repeat()
    augmentation = Augmentation((12, 20), **more)
    found = mixtures.with_mixtures(dataset, augmentation, CLASSES, seed, position).take(count)
    return [(x.numpy(), y.numpy()) for x, y in found]


@pytest.mark.parametrize("rows", [4, 3, 1])
@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_a_label_is_the_share_of_the_pixels(alpha, rows):
    shares = []
    for x, y in batches(60, cutmix=alpha, rows=rows):
        assert (x.dtype, y.dtype) == (np.float32, np.float32)
        of_pixels = np.stack([(x[..., 0] == row).mean((1, 2)) for row in range(rows)], 1)
        np.testing.assert_allclose(y[:, :rows], of_pixels, atol=1e-7)
        np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
        shares.append(y[0, 0])
    if rows > 1:
        assert len(set(shares)) > 20
        assert min(shares) < 0.5
        assert max(shares) > 0.95


def test_boxes_lie_everywhere():
    cut = np.mean([x[0, ..., 0] == 3 for x, _ in batches(400, cutmix=1.0)], 0)
    assert cut.min() > 0.05
    # Clipped, they lie in the middle more often than at an edge, and to both sides alike.
    for axis in (0, 1):
        along = cut.mean(1 - axis)
        assert along[len(along) // 2] > 1.3 * along[0]
        assert abs(along - along[::-1]).max() < 0.1


def test_mixup_alone_is_what_it_was():
    """The weights that mixup drew before CutMix was there."""
    weights = [y[0, 0] for _, y in batches(3, position=5, seed=7, mixup=0.3)]
    expected = [0.05950755998492241, 0.40825918316841125, 0.0014335952000692487]
    np.testing.assert_array_equal(weights, np.float32(expected))


def test_with_both_each_batch_has_one_by_half():
    both = batches(400, mixup=0.4, cutmix=1.0)
    only = [batches(400, mixup=0.4), batches(400, cutmix=1.0)]
    chosen = []
    for index, (x, y) in enumerate(both):
        same = [
            np.array_equal(x, part[index][0]) and np.array_equal(y, part[index][1]) for part in only
        ]
        assert any(same)
        chosen.append(same[1] and not same[0])
    assert 0.42 < np.mean(chosen) < 0.58


@pytest.mark.parametrize("asked", [{"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_draws_are_those_of_the_seed_and_the_batch(asked):
    unbroken = batches(12, **asked)
    for (x, y), (x2, y2) in zip(unbroken[7:], batches(5, position=7, **asked), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    other = batches(12, seed=4, **asked)
    assert sum(np.array_equal(y, y2) for (_, y), (_, y2) in zip(unbroken, other, strict=True)) < 4


def test_nothing_is_mixed_unless_asked():
    ((x, y),) = batches(1)
    np.testing.assert_array_equal(x, batch()[0])
    np.testing.assert_array_equal(y, batch()[1])
