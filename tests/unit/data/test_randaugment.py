"""RandAugment's operations beside Pillow's, and what is drawn."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from mpt.data import randaugment

NEAREST, AFFINE = Image.Resampling.NEAREST, Image.Transform.AFFINE
FACTORS = (0.1, 0.73, 1.0, 1.27, 1.9)
ENHANCED = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}


def picture(channels=3, low=20, high=200):
    """Smooth shades and noise, of 40 rows and 53 columns."""
    random = np.random.default_rng(channels)
    rows, columns = np.mgrid[:40, :53]
    shades = (rows * 2 + columns)[..., None] + random.integers(0, 60, (40, 53, channels))
    return np.clip(low + shades, low, high).astype(np.uint8)


IMAGES = {
    "colour": picture(),
    "grey": picture(1),
    "one shade": np.full((40, 53, 3), 77, np.uint8),
    "few shades": (picture() // 90 * 90).astype(np.uint8),
    "small": picture()[:2, :5],
}


def pillow(image):
    return Image.fromarray(image if image.shape[2] == 3 else image[..., 0])


def compare(found, image, most=0, share=0.0):
    """`found` is `image` to within `most` of 255; but for a `share` of the pixels."""
    expected = np.asarray(image).reshape(found.shape)
    assert found.dtype == tf.uint8
    off = np.abs(found.numpy().astype(int) - expected) > most
    assert off.any(-1).mean() <= share, np.argwhere(off)[:5]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("operation", ENHANCED)
def test_enhanced(operation, factor, name):
    image = IMAGES[name]
    found = getattr(randaugment, operation)(tf.constant(image), factor)
    compare(found, ENHANCED[operation](pillow(image)).enhance(factor))


@pytest.mark.parametrize("name", IMAGES)
def test_spread(name):
    image = IMAGES[name]
    # Pillow scales by a rounded quotient, and may so be one below.
    compare(randaugment.autocontrast(tf.constant(image)), ImageOps.autocontrast(pillow(image)), 1)
    compare(randaugment.equalize(tf.constant(image)), ImageOps.equalize(pillow(image)))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_posterize(bits):
    found = randaugment.posterize(tf.constant(picture()), bits)
    compare(found, ImageOps.posterize(pillow(picture()), bits))


@pytest.mark.parametrize("threshold", [0, 76.5, 128, 178.5, 255])
def test_solarize(threshold):
    found = randaugment.solarize(tf.constant(picture()), threshold)
    compare(found, ImageOps.solarize(pillow(picture()), threshold))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0.3, 0, 0, 1, 0),
        (1, -0.09, 0, 0, 1, 0),
        (1, 0, 0, -0.17, 1, 0),
        (1, 0, 11, 0, 1, 0),
        (1, 0, 0, 0, 1, -7),
    ],
)
def test_affine(matrix, channels):
    image = picture(channels)
    found = randaugment.affine(tf.constant(image), matrix)
    moved = pillow(image).transform((53, 40), AFFINE, matrix, NEAREST)
    # Pillow adds up rounded steps: next to a pixel's edge it may take the neighbour.
    compare(found, moved, share=0.01)


@pytest.mark.parametrize("degrees", [-30, -9, 4.5, 30])
def test_rotate(degrees):
    found = randaugment.rotate(tf.constant(picture()), degrees)
    compare(found, pillow(picture()).rotate(degrees, NEAREST), share=0.01)


def of_torchvision(magnitude, sign):
    """The fourteen operations in the paper's order, with torchvision's table for an image 53x40."""
    share = magnitude / 30
    lean, factor = sign * 0.3 * share, 1 + sign * 0.9 * share
    x, y = (sign * int(150 / 331 * side * share) for side in (53, 40))

    def moved(*matrix):
        return lambda image: image.transform((53, 40), AFFINE, matrix, NEAREST)

    return [
        lambda image: image,
        moved(1, lean, 0, 0, 1, 0),
        moved(1, 0, 0, lean, 1, 0),
        moved(1, 0, -x, 0, 1, 0),
        moved(1, 0, 0, 0, 1, -y),
        lambda image: image.rotate(sign * 30 * share, NEAREST),
        *(
            lambda image, kind=ENHANCED[name]: kind(image).enhance(factor)
            for name in ("brightness", "color", "contrast", "sharpness")
        ),
        lambda image: ImageOps.posterize(image, 8 - round(share * 4)),
        lambda image: ImageOps.solarize(image, 255 - 255 * share),
        ImageOps.autocontrast,
        ImageOps.equalize,
    ]


@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
def test_the_table(magnitude):
    image = picture()
    ways = randaugment.ways(magnitude, 40, 53)
    expected = [*of_torchvision(magnitude, 1), *of_torchvision(magnitude, -1)]
    for way, like in zip(ways, expected, strict=True):
        compare(way(tf.constant(image)), like(pillow(image)), most=1, share=0.01)


def drawn(seed, operations=2, magnitude=20):
    @tf.function
    def change(image, seed):
        return randaugment.augmented(image, seed, operations, magnitude)

    seeds = tf.constant([[seed, number] for number in range(60)], tf.int64)
    return np.stack([change(tf.constant(picture()), each).numpy() for each in seeds])


@pytest.mark.slow
def test_a_seed_draws_the_same_again_and_another_seed_others():
    one, again, other = drawn(3), drawn(3), drawn(4)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any((1, 2, 3)).sum() > 40
    assert len({image.tobytes() for image in one}) > 40


def test_each_operation_is_drawn():
    one = drawn(0, operations=1)
    expected = [way(tf.constant(picture())).numpy() for way in randaugment.ways(20, 40, 53)]
    found = [[np.array_equal(image, each) for each in expected] for image in one]
    assert all(map(any, found))
    assert {row.index(True) for row in found} >= {0, 10, 11, 12, 13}
    assert len({row.index(True) for row in found}) > 14
    np.testing.assert_array_equal(drawn(0, operations=0), np.stack([picture()] * 60))
