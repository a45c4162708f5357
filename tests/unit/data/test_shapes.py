"""Drawn pictures: what is in them, that they are the same in every run, what is refused."""

import numpy as np
import pytest

from mpt.data import shapes
from mpt.errors import ConfigurationError


def built(**more):
    return shapes.build(**{"batch_size": 4, "seed": 0, "size": 32, "examples": 20, **more})


def batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def test_pictures_and_labels():
    data = built()
    assert (data.train_examples, data.validation_examples, data.classes) == (16, 4, 4)
    assert (data.shape, data.ignores, data.bounded) == ((32, 32, 3), False, True)
    x, y = map(np.concatenate, zip(*batches(data.train, 4), strict=True))
    assert (x.dtype, y.dtype, y.shape) == (np.float32, np.int32, (16, 32, 32))
    assert 0 <= x.min() <= x.max() <= 1
    assert set(np.unique(y)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(data.class_counts(), np.bincount(y.ravel(), minlength=4))
    assert built(size=[16, 24]).shape == (16, 24, 3)


def test_a_picture_follows_from_its_number():
    """Neither the seed nor how many there are changes what is drawn."""
    settings = {"validation_fraction": 0.0, "shuffle": False}
    few = batches(built(**settings).train, 5)
    many = batches(built(**settings, seed=3, examples=40).train, 5)
    for (x, y), (x2, y2) in zip(few, many, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    orders = [batches(built(seed=seed).train, 1)[0][1] for seed in (0, 1)]
    assert not np.array_equal(*orders)


def test_what_is_labelled_stands_out_from_the_background():
    apart = 0
    for number in range(50):
        picture, labels = shapes.drawn(number, 64, 64, 0.0)
        for kind in (1, 2, 3):
            inside = labels == kind
            if inside.any() and (labels == 0).any():
                means = [picture[place].mean(0) for place in (inside, labels == 0)]
                apart += np.linalg.norm(means[0] - means[1]) > 30
    assert apart > 80


def shapes_alone(kind):
    """Single whole shapes: bool (256, 256), drawn until none touches the border."""
    rows, columns = np.arange(256)[:, None] + 0.5, np.arange(256)[None] + 0.5
    random = np.random.default_rng(5)
    found = []
    while len(found) < 20:
        inside = shapes._inside(random, kind, rows, columns)
        border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        if inside.any() and not border.any():
            found.append(inside)
    return found


@pytest.mark.parametrize(
    ("kind", "share"),
    # Area over that of the circle around it: of a square 2/pi, of a triangle 3*sqrt(3)/(4*pi).
    [(1, 1.0), (2, 0.637), (3, 0.413)],
)
def test_kinds_are_what_they_are_called(kind, share):
    shares = []
    for inside in shapes_alone(kind):
        rows, columns = np.nonzero(inside)
        y, x = rows.mean(), columns.mean()
        radius = np.sqrt(((rows - y) ** 2 + (columns - x) ** 2).max())
        shares.append(inside.sum() / (np.pi * radius**2))
    assert np.mean(shares) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ({"size": 8}, "dataset.size", "8 is below 16"),
        ({"size": [32]}, "dataset.size", "height, width"),
        ({"examples": 0}, "dataset.examples", "below 1"),
        ({"examples": 10**7}, "dataset.examples", "GiB of memory"),
        ({"noise": -1.0}, "dataset.noise", "0 to 255"),
        ({"batch_size": 17}, "batch_size", "17"),
        ({"validation_fraction": 1.0}, "dataset.validation_fraction", "no share"),
    ],
)
def test_bad_input(words, where, says):
    with pytest.raises(ConfigurationError) as error:
        built(**words)
    assert error.value.where == where
    assert says in str(error.value)
