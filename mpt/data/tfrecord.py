"""Images in TFRecord files, as ImageNet's usual conversion lays them out.

Shards train-00000-of-01024 and validation-00000-of-00128 of tf.train.Examples that hold an encoded
image and a label. The format of a file is that of tensorflow/core/lib/io/record_writer.h: for each
record its length in 8 bytes, their checksum in 4, the content, its checksum in 4.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import checks
from mpt.data.broken import LeftOut, OnError
from mpt.data.mixtures import with_mixtures
from mpt.data.pictures import (
    Augmentation,
    cores,
    sides_of,
    training,
    validation,
)
from mpt.data.pipeline import ENDLESS, STALL_SECONDS, finished, own_rows
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.pipeline import Data

TRAINING, HELD_OUT = "train-*", "validation-*"
AT_ONCE = 16
"""Shards that are read at once; so many records of each follow one another."""

HEADER, FOOTER = 12, 4
GRAPH_SEED = 1
COUNTED_AT_ONCE = 4096


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
    from mpt.data.pipeline import Data

    checks.batch(batch_size)
    augmentation = Augmentation(
        sides_of(size), channels, crop_area, flip, mixup, cutmix, randaugment, magnitude, center
    )
    folder = Path(path).expanduser()
    left_out = LeftOut()
    train_files = _counted(folder, TRAINING, on_error, left_out)
    held_out = _counted(folder, HELD_OUT, on_error, left_out)
    rows, held_out_rows = sum(train_files.values()), sum(held_out.values())
    if not rows:
        raise ConfigurationError(
            f"{folder} has no records in files named {TRAINING}",
            where="dataset.path",
            remedy="give the folder of the shards",
        )
    checks.enough(rows, batch_size, str(folder), left_out.warning)
    parse = _parser(image_key, label_key, first_label, classes)
    begin_at = partial(
        _train, train_files, parse, augmentation, classes, batch_size, seed, shuffle, buffer
    )
    train = begin_at(0)
    return Data(
        name=name,
        train=train,
        validation=_validation(held_out, parse, augmentation, classes, batch_size)
        if held_out_rows
        else None,
        validation_batches=math.ceil(held_out_rows / batch_size),
        steps_per_epoch=rows // batch_size,
        train_examples=rows,
        validation_examples=held_out_rows,
        shape=(*augmentation.size, channels),
        classes=classes,
        element_spec=train.element_spec,
        fingerprint=_fingerprint({**train_files, **held_out}),
        bad_rows=left_out.count,
        bad_row_names=left_out.summary,
        warnings=left_out.warnings,
        validation_source=HELD_OUT if held_out_rows else "none",
        jump=begin_at,
        stall_seconds=stall_seconds,
        class_counts=partial(_class_counts, train_files, parse, classes),
        bounded=True,
    )


def _counted(folder: Path, pattern: str, on_error: OnError, left_out: LeftOut) -> dict[Path, int]:
    """The files and how many whole records each has.

    Raises:
        ConfigurationError: a file ends within a record, and that is not to be skipped.
    """
    found: dict[Path, int] = {}
    for file in sorted(folder.glob(pattern)):
        count, end = _whole_records(file)
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
        found[file] = count
    return found


def _whole_records(file: Path) -> tuple[int, int]:
    """How many whole records a file has, by the lengths that it names, and where they end."""
    size, end, count = file.stat().st_size, 0, 0
    with file.open("rb", buffering=0) as stream:
        while end + HEADER <= size:
            header = os.pread(stream.fileno(), 8, end)
            (length,) = struct.unpack("<Q", header)
            following = end + HEADER + length + FOOTER
            if following > size:
                break
            end, count = following, count + 1
    return count, end


def _fingerprint(files: dict[Path, int]) -> str:
    """SHA-256 of the files' names, records and sizes in bytes."""
    digest = hashlib.sha256()
    for file, count in files.items():
        digest.update(f"{file.name} {count} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def _parser(image_key: str, label_key: str, first_label: int, classes: int) -> Any:
    """A function from a record to the encoded image and the label, from 0."""
    import tensorflow as tf

    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        label = tf.cast(example[label_key], tf.int32) - first_label
        within = tf.debugging.Assert(
            (label >= 0) & (label < classes),
            [f"label outside [{first_label}, {first_label + classes}):", example[label_key]],
        )
        with tf.control_dependencies([within]):
            return example[image_key], tf.identity(label)

    return parse


def _records(names: tf.Tensor, counts: tf.Tensor, files: int) -> tf.data.Dataset:
    """The whole records of the files, several read at once."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((names, counts)).interleave(
        lambda name, count: tf.data.TFRecordDataset(name).take(count),
        cycle_length=min(AT_ONCE, files),
        block_length=AT_ONCE,
        num_parallel_calls=min(files, 2 * cores()),
        deterministic=True,
    )


def _class_counts(files: dict[Path, int], parse: Any, classes: int) -> np.ndarray:
    """How many records each class has; reads them all, and decodes none."""
    import tensorflow as tf

    names, counts = [str(file) for file in files], [*files.values()]
    records = _records(tf.constant(names), tf.constant(counts, tf.int64), len(files))
    labels = records.map(lambda record: parse(record)[1]).batch(COUNTED_AT_ONCE)
    found = np.zeros(classes, np.int64)
    for chunk in labels.as_numpy_iterator():
        found += np.bincount(chunk, minlength=classes)
    return found


def _train(
    files: dict[Path, int],
    parse: Any,
    augmentation: Augmentation,
    classes: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    buffer: int,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless batches from number `position` on; of each, where `part` is given, those rows."""
    import tensorflow as tf

    used = sum(files.values()) // batch_size * batch_size  # records of an epoch
    first, inside = divmod(position * batch_size, used)
    load = training(augmentation)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        names, counts = tf.constant([str(file) for file in files]), tf.constant([*files.values()])
        key = tf.stack([tf.constant(seed, tf.int64), number])
        if shuffle:
            order = tf.argsort(tf.random.stateless_uniform([len(files)], key))
            names, counts = tf.gather(names, order), tf.gather(counts, order)
        records = _records(names, tf.cast(counts, tf.int64), len(files))
        if shuffle:
            draws = tf.random.stateless_uniform([], key, None, None, tf.int64)
            # Of this function's graph: else the order would hang on the process's global seed, too,
            # and under a global seed of 0 TensorFlow refuses a seed that is a tensor.
            tf.compat.v1.set_random_seed(GRAPH_SEED)
            records = records.shuffle(buffer, draws, reshuffle_each_iteration=False)
        return records.take(used).skip(tf.cast(tf.where(number == first, inside, 0), tf.int64))

    def example(number: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = parse(record)
        return load(content, tf.stack([tf.constant(seed, tf.int64), number])), label

    records = tf.data.Dataset.range(first, ENDLESS).flat_map(epoch)
    numbers = tf.data.Dataset.range(position * batch_size, ENDLESS)
    own, size = own_rows(tf.data.Dataset.zip((numbers, records)), batch_size, *part)
    dataset = own.map(example, num_parallel_calls=cores(), deterministic=True)
    dataset = dataset.batch(size, drop_remainder=True)
    return finished(with_mixtures(dataset, augmentation, classes, seed, position))


def _validation(
    files: dict[Path, int],
    parse: Any,
    augmentation: Augmentation,
    classes: int,
    batch_size: int,
) -> tf.data.Dataset:
    """Endless passes over the records in their order."""
    import tensorflow as tf

    load = validation(augmentation)

    def example(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = parse(record)
        return load(content), tf.one_hot(label, classes) if augmentation.mixes else label

    names, counts = [str(file) for file in files], [*files.values()]
    records = _records(tf.constant(names), tf.constant(counts, tf.int64), len(files))
    dataset = records.map(example, num_parallel_calls=cores(), deterministic=True)
    return finished(dataset.batch(batch_size).repeat())
