"""Image files to tensors: decoded, cropped, resized and mirrored, as functions of a seed.

Random-resized crops are those of Szegedy et al., "Going Deeper with Convolutions", 2014, as every
recipe for ImageNet has taken them since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpt.data.pipeline import ENDLESS, own_rows
from mpt.data.randaugment import LARGEST, augmented
from mpt.device import cores
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
ASPECTS = (3 / 4, 4 / 3)
ATTEMPTS = 10
"""To find a crop that lies in the image; without success the whole of it is taken."""

BEYOND_SEEDS = 2**40
MOST_OPERATIONS = 14

JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, and to the others.

    Attributes:
        size: height and width that the model gets.
        channels: 1 or 3; images of other channels are converted.
        area: smallest share of an image's area in a random crop; None takes none: training images
            are those that validation has.
        flip: mirror half of the training images, left for right.
        mixup: alpha of the Beta distribution of a mixture's weight; 0 mixes nothing.
        center: share of a side that is kept around the centre where nothing is random.
        cutmix: alpha of the Beta distribution of what a box leaves of an image; 0 cuts nothing.
        randaugment: operations on each training image; 0 does none.
        magnitude: of these operations, 0 to 30.
    """

    size: tuple[int, int]
    channels: int = 3
    area: float | None = 0.08
    flip: bool = True
    mixup: float = 0.0
    center: float = 0.875
    cutmix: float = 0.0
    randaugment: int = 0
    magnitude: int = 9

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of the classes."""
        return bool(self.mixup or self.cutmix)

    def __post_init__(self) -> None:
        for key, holds, allowed in (
            ("size", min(self.size) >= 1, "1 or more"),
            ("channels", self.channels in (1, 3), "1 or 3"),
            ("crop_area", self.area is None or 0 < self.area <= 1, "above 0 and up to 1, or null"),
            ("mixup", self.mixup >= 0, "0 or more"),
            ("cutmix", self.cutmix >= 0, "0 or more"),
            ("randaugment", 0 <= self.randaugment <= MOST_OPERATIONS, f"0 to {MOST_OPERATIONS}"),
            ("magnitude", 0 <= self.magnitude <= LARGEST, f"0 to {LARGEST}"),
            ("center", 0 < self.center <= 1, "above 0 and up to 1"),
        ):
            if not holds:
                raise ConfigurationError(
                    f"dataset.{key} is out of range", where=f"dataset.{key}", allowed=[allowed]
                )


def training(augmentation: Augmentation) -> Callable[[Any, Any], Any]:
    """A function from a file's bytes and an int64 seed (2,) to an image as `validation` has it."""
    import tensorflow as tf

    if augmentation.area is None:
        still = validation(augmentation)

    def load(content: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if augmentation.area is None:
            image = still(content)
        else:
            image = _randomly_cropped(content, seed, augmentation)
            image = resized(image, augmentation)
        if augmentation.flip:
            image = tf.image.stateless_random_flip_left_right(image, other_seed(seed, 1))
        if augmentation.randaugment:
            image = _randomly_changed(image, other_seed(seed, 2), augmentation)
        return image

    return load


def validation(augmentation: Augmentation) -> Callable[[Any], Any]:
    """A function from a file's bytes to the centre of its image, float32, in [0, 1]."""
    import tensorflow as tf

    def load(content: tf.Tensor) -> tf.Tensor:
        image = decoded(content, augmentation.channels)
        return resized(within(image, central_window(tf.shape(image), augmentation)), augmentation)

    return load


def central_window(shape: Any, augmentation: Augmentation) -> Any:
    """The middle of an image of `shape`: int32 (top, left, height, width)."""
    import tensorflow as tf

    wanted = tf.constant(augmentation.size, tf.float32)
    # The largest window of the wanted proportions, and of that the share in its middle.
    scale = tf.reduce_min(tf.cast(shape[:2], tf.float32) / wanted)
    window = tf.cast(tf.round(scale * augmentation.center * wanted), tf.int32)
    window = tf.clip_by_value(window, 1, shape[:2])
    return tf.concat([(shape[:2] - window) // 2, window], 0)


def random_window(shape: Any, seed: Any, augmentation: Augmentation) -> Any:
    """A random part of an image of `shape`: int32 (top, left, height, width)."""
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=ASPECTS,
        area_range=(augmentation.area, 1.0),
        max_attempts=ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def within(image: Any, window: Any) -> Any:
    """The part of `image` in a window."""
    return image[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]


def made(
    rows: tf.data.Dataset,
    example: Callable[..., Any],
    batch_size: int,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Batches, from number `position` on, of what `example` makes of a row's number and the row.

    Args:
        rows: from the first of that batch on.
        part: first and last place of the only rows of a batch that are to be made.
    """
    import tensorflow as tf

    numbers = tf.data.Dataset.range(position * batch_size, ENDLESS)
    own, size = own_rows(tf.data.Dataset.zip((numbers, rows)), batch_size, *part)
    dataset = own.map(example, num_parallel_calls=cores(), deterministic=True)
    return dataset.batch(size, drop_remainder=True)


def passes(rows: tf.data.Dataset, example: Callable[..., Any], batch_size: int) -> tf.data.Dataset:
    """Batches of what `example` makes of each row, in their order, again and again.

    The last batch of a pass is as small as it falls.
    """
    dataset = rows.map(example, num_parallel_calls=cores(), deterministic=True)
    return dataset.batch(batch_size).repeat()


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, of one number for both or of two.

    Raises:
        ConfigurationError: they are neither.
    """
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ConfigurationError(
            f"{len(size)} numbers are no size of an image",
            where="dataset.size",
            allowed=["a number", "[height, width]"],
        )
    return size[0], size[1]


def other_seed(seed: Any, number: int) -> Any:
    """An int64 seed (2,) for a further draw with `seed`: one that no run's own seed makes."""
    import tensorflow as tf

    return seed + tf.constant([number * BEYOND_SEEDS, 0], tf.int64)


def decoded(content: Any, channels: int) -> Any:
    """The whole image in a file's bytes, uint8 (height, width, channels)."""
    import tensorflow as tf

    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels])
    return image


def _randomly_cropped(content: Any, seed: Any, augmentation: Augmentation) -> Any:
    """A random part of the image, uint8; of a JPEG no more than that is decoded."""
    import tensorflow as tf

    def part_of_jpeg() -> tf.Tensor:
        where = random_window(tf.io.extract_jpeg_shape(content), seed, augmentation)
        return tf.image.decode_and_crop_jpeg(content, where, channels=augmentation.channels)

    def part_of_other() -> tf.Tensor:
        image = decoded(content, augmentation.channels)
        return within(image, random_window(tf.shape(image), seed, augmentation))

    is_jpeg = tf.equal(tf.strings.substr(content, 0, len(JPEG)), JPEG)
    image = tf.cond(is_jpeg, part_of_jpeg, part_of_other)
    image.set_shape([None, None, augmentation.channels])
    return image


def resized(image: Any, augmentation: Augmentation) -> Any:
    """`image` in the wanted size, float32 in [0, 1]."""
    import tensorflow as tf

    image = tf.image.resize(image, augmentation.size, antialias=False) * (1 / 255)
    image.set_shape([*augmentation.size, augmentation.channels])
    return image


def _randomly_changed(image: Any, seed: Any, augmentation: Augmentation) -> Any:
    """`image`, float32 in [0, 1], after RandAugment."""
    import tensorflow as tf

    image = tf.cast(tf.round(255 * image), tf.uint8)
    image = augmented(image, seed, augmentation.randaugment, augmentation.magnitude)
    return tf.cast(image, tf.float32) * (1 / 255)
