"""Images in TFRecord files, as ImageNet's usual conversion lays them out.

Shards train-00000-of-01024 and validation-00000-of-00128 of tf.train.Examples that hold an encoded
image and a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.data import checks, shards
from mpt.data.examples import STALL_SECONDS, Data
from mpt.data.left_out import LeftOut, OnError
from mpt.data.pictures import Augmentation, sides_of
from mpt.data.shards import Part, Reading, Shards
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

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

    A run that goes on reads the epoch's records again up to its place, without decoding them.

    Args:
        path: a folder with the files `train-*` and `validation-*`.
        classes: labels are below `first_label`, that of the first class, plus this.
        image_key, label_key: features that hold an encoded image and its label.
        buffer: records from which the next one is drawn, in the order of `mpt.data.shards`.
        on_error: skip takes a truncated file up to the break. A broken image ends the run.

    Raises:
        ConfigurationError: no files, a truncated one, or values out of range.
    """
    checks.batch(batch_size)
    augmentation = Augmentation(
        sides_of(size), channels, crop_area, flip, mixup, center, cutmix, randaugment, magnitude
    )
    folder, left_out = Path(path).expanduser(), LeftOut()
    parse = _parser(image_key, label_key, first_label, classes)
    train, held_out = (
        Shards(pattern, _counted(folder, pattern, on_error, left_out), parse, classes)
        for pattern in (TRAINING, HELD_OUT)
    )
    if not train.rows:
        raise ConfigurationError(
            f"{folder} has no records in files named {TRAINING}",
            where="dataset.path",
            remedy="give the folder of the shards",
        )
    checks.enough(train.rows, batch_size, str(folder), left_out.warning)
    reading = Reading(batch_size, seed, shuffle, buffer)
    return shards.as_data(
        train, held_out, augmentation, reading, left_out, name=name, stall_seconds=stall_seconds
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
