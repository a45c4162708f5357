"""Images in TFRecord files, as ImageNet's usual conversion lays them out.

Shards train-00000-of-01024 and validation-00000-of-00128 of tf.train.Examples that hold an encoded
image and a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.data import checks, shards
from mpt.data.broken import LeftOut, OnError
from mpt.data.pictures import Augmentation, sides_of
from mpt.data.pipeline import STALL_SECONDS
from mpt.data.shards import Part, Shards
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.pipeline import Data

TRAINING, HELD_OUT = "train-*", "validation-*"


def build(
    *,
    batch_size: int,
    seed: int,
    path: str,
    size: int | Sequence[int] = 224,
    channels: int = 3,
    crop_area: float | None = 0.08,
    flip: bool = True,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    randaugment: int = 0,
    magnitude: int = 9,
    center: float = 0.875,
    classes: int = 1000,
    first_label: int = 1,
    image_key: str = "image/encoded",
    label_key: str = "image/class/label",
    buffer: int = 10_000,
    shuffle: bool = True,
    name: str = "tfrecord",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """x float32 (height, width, channels) in [0, 1], y int32; with mixtures y float32 (classes,).

    The order is a function of the seed and the epoch: shards in a new order, sixteen read at once,
    their records drawn from a buffer. A run that goes on reads the epoch's records again up to its
    place, without decoding them.

    Args:
        batch_size: rows in a training batch.
        seed: of the order, and of what is random of an image and of the mixtures.
        path: a folder with the files `train-*` and `validation-*`.
        size: that the model gets, pixels: of both sides, or (height, width).
        channels: 1 or 3; images of other channels are converted.
        crop_area: smallest share of an image's area in a training image's random crop; null takes
            the centre, as validation does.
        flip: mirror half of the training images, left for right.
        mixup: alpha of the Beta distribution of a mixture's weight; 0 mixes nothing.
        cutmix: alpha of the Beta distribution of what a box from another image leaves; 0 cuts
            nothing. With mixup too, each batch has one of them, by half.
        randaugment: operations of RandAugment on each training image; 0 does none.
        magnitude: of these operations, 0 to 30.
        center: share of a side that is kept around the centre in validation.
        classes: labels are below `first_label` plus this.
        first_label: of the first class; ImageNet's files count from 1.
        image_key: feature that holds an encoded image.
        label_key: feature that holds its label.
        buffer: records from which the next one is drawn.
        shuffle: a new order for each epoch.
        name: of the dataset.
        on_error: fail refuses a truncated file; skip takes the records before the break. An image
            that cannot be decoded ends the run.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: no files, a truncated one, or values out of range.
    """
    checks.batch(batch_size)
    augmentation = Augmentation(
        sides_of(size), channels, crop_area, flip, mixup, center, cutmix, randaugment, magnitude
    )
    folder = Path(path).expanduser()
    left_out = LeftOut()
    parse = _parser(image_key, label_key, first_label, classes)
    train, held_out = (
        Shards(_counted(folder, pattern, on_error, left_out), parse, classes)
        for pattern in (TRAINING, HELD_OUT)
    )
    if not train.rows:
        raise ConfigurationError(
            f"{folder} has no records in files named {TRAINING}",
            where="dataset.path",
            remedy="give the folder of the shards",
        )
    checks.enough(train.rows, batch_size, str(folder), left_out.warning)
    return shards.as_data(
        train,
        held_out,
        augmentation,
        name=name,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        buffer=buffer,
        held_out_name=HELD_OUT,
        left_out=left_out,
        stall_seconds=stall_seconds,
    )


def _counted(folder: Path, pattern: str, on_error: OnError, left_out: LeftOut) -> tuple[Part, ...]:
    """The files with the whole records that each has.

    Raises:
        ConfigurationError: a file ends within a record, and that is not to be skipped.
    """
    found: list[Part] = []
    for file in sorted(folder.glob(pattern)):
        count, end = shards.whole_records(file)
        size = file.stat().st_size
        if end != size:
            what = f"{file.name} is truncated after {count} records"
            if on_error == "fail":
                raise ConfigurationError(
                    f"{what}: {size - end} bytes are left, and no whole record",
                    where=str(file),
                    remedy="copy or write the file again, or set dataset.on_error=skip to take "
                    "the records before the break",
                )
            left_out.add(what)
        left_out.of += count
        found.append(Part(file, count))
    return tuple(found)


def _parser(image_key: str, label_key: str, first_label: int, classes: int) -> Any:
    """A function from a record to the encoded image and the label, from 0."""
    import tensorflow as tf

    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        label = shards.checked_label(example[label_key], first_label, classes)
        return example[image_key], label

    return parse
