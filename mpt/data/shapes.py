"""Drawn pictures with a class for each pixel: discs, squares and triangles before a background.

They are no photographs, and easy to learn: they show that a segmentation trains, and how fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pictures import sides_of
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

CLASSES = ("background", "disc", "square", "triangle")
CONTENT_SEED = 0
SMALLEST = 16
LARGEST_BYTES = 8 * 2**30

MOST = 4
"""Shapes of a picture, at the most; there is one at the least."""

RADII = (0.12, 0.3)
"""From a shape's centre to its corners, or of a disc: share of the picture's shorter side."""

CONTRAST = 60.0
"""Least distance of a shape's colour from the background's, of 0 to 255 a channel."""


def build(
    *,
    batch_size: int,
    seed: int,
    size: int | Sequence[int] = 64,
    noise: float = 20.0,
    examples: int = 2048,
    validation_fraction: float = 0.2,
    shuffle: bool = True,
    name: str = "shapes",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """x float32 (height, width, 3) in [0, 1], y int32 (height, width): 0 background to 3 triangle.

    One to four shapes of random kind, colour, place, size and angle lie before a background of
    waves, the later ones over the earlier; then noise is added to every pixel. Picture number n is
    the same in every run, whatever `seed` and `examples` are.

    Args:
        batch_size: rows in a training batch.
        seed: of the order; content and split are the same for every seed.
        size: pixels: of both sides, or (height, width); 16 or more.
        noise: standard deviation of each pixel's noise, of 0 to 255.
        examples: pictures to draw, before the split.
        validation_fraction: share of the pictures for validation.
        shuffle: a new order for each epoch.
        name: of the dataset.
        on_error: has no use here, as nothing is broken.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: values out of range, or pictures above 8 GiB in all.
    """
    height, width = sides_of(size)
    _check(height, width, noise, examples)
    x = np.empty((examples, height, width, 3), np.uint8)
    y = np.empty((examples, height, width), np.uint8)
    for number in range(examples):
        x[number], y[number] = drawn(number, height, width, noise)
    return from_arrays(
        Examples(x, y, name),
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=validation_fraction,
        shuffle=shuffle,
        classes=len(CLASSES),
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _check(height: int, width: int, noise: float, examples: int) -> None:
    for key, value, least in (("size", min(height, width), SMALLEST), ("examples", examples, 1)):
        if value < least:
            raise ConfigurationError(
                f"{value} is below {least}", where=f"dataset.{key}", allowed=[f"{least} or more"]
            )
    if not 0 <= noise <= 255:
        raise ConfigurationError(
            f"{noise:g} is no noise of pixels", where="dataset.noise", allowed=["0 to 255"]
        )
    total = 4 * examples * height * width
    if total > LARGEST_BYTES:
        raise ConfigurationError(
            f"the pictures would take {total / 2**30:.1f} GiB of memory, over 8",
            where="dataset.examples",
            remedy="take fewer examples or a smaller size",
        )


def drawn(number: int, height: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Picture `number`: uint8 (height, width, 3), and its labels: uint8 (height, width)."""
    random = np.random.default_rng((CONTENT_SEED, number))
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    colour = random.uniform(0, 255, 3)
    picture = colour + _waves(random, rows, columns)[..., None]
    labels = np.zeros((height, width), np.uint8)
    for _ in range(random.integers(1, MOST + 1)):
        kind = int(random.integers(1, len(CLASSES)))
        inside = _inside(random, kind, rows, columns)
        labels[inside] = kind
        picture[inside] = _other_colour(random, colour)
    picture += random.normal(0, noise, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), labels


def _waves(random: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(height, width): a sum of three waves of random direction, length and height."""
    waves = np.zeros((rows.size, columns.size))
    for _ in range(3):
        across, along = random.uniform(-0.5, 0.5, 2)
        height, phase = random.uniform(5, 25), random.uniform(0, 2 * np.pi)
        waves += height * np.sin(across * rows + along * columns + phase)
    return waves


def _other_colour(random: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A colour (3,) that is not too near `colour`."""
    while True:
        found = random.uniform(0, 255, 3)
        if np.linalg.norm(found - colour) >= CONTRAST:
            return found


def _inside(
    random: np.random.Generator, kind: int, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Bool (height, width): the pixels whose middle a shape of random place, size and angle covers.

    A square and a triangle are what lies on the inner side of each of their edges.
    """
    radius = random.uniform(*RADII) * min(rows.size, columns.size)
    y, x = random.uniform(0, rows.size), random.uniform(0, columns.size)
    start = random.uniform(0, 2 * np.pi)
    down, right = rows - y, columns - x
    if CLASSES[kind] == "disc":
        return down**2 + right**2 <= radius**2
    edges = 4 if CLASSES[kind] == "square" else 3
    inside = np.ones((rows.size, columns.size), bool)
    for angle in start + 2 * np.pi * np.arange(edges) / edges:
        distance = down * np.sin(angle) + right * np.cos(angle)
        inside &= distance <= radius * np.cos(np.pi / edges)
    return inside
