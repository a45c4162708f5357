"""Records of images in shards: endless batches in an order of the seed's, and passes over them.

The format of a file is that of tensorflow/core/lib/io/record_writer.h: for each record its length
in 8 bytes, their checksum in 4, the content, its checksum in 4.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data.examples import STALL_SECONDS, Data, seekable
from mpt.data.left_out import LeftOut
from mpt.data.mixtures import with_mixtures
from mpt.data.pictures import Augmentation, made, passes, training, validation
from mpt.data.pipeline import ENDLESS, finished
from mpt.device import cores

if TYPE_CHECKING:
    import tensorflow as tf

AT_ONCE = 16
"""Shards that are read at once; so many records of each follow one another."""

HEADER, FOOTER = 12, 4
GRAPH_SEED = 1
COUNTED_AT_ONCE = 4096


@dataclass(frozen=True)
class Part:
    """Records of one file that follow one another.

    Attributes:
        file: TFRecords.
        count: records.
        first: number of the first of them.
    """

    file: Path
    count: int
    first: int = 0


@dataclass(frozen=True)
class Shards:
    """Records, and what is made of them.

    Attributes:
        name: where they come from.
        parts: of files, in their order.
        parse: a function from a record to the encoded image and the label, an int32 from 0.
        classes: labels are below it.
    """

    name: str
    parts: tuple[Part, ...]
    parse: Callable[[Any], tuple[Any, Any]]
    classes: int

    @property
    def rows(self) -> int:
        """Records."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class Reading:
    """In which order records are trained on.

    Attributes:
        batch_size: rows in a training batch.
        seed: of the order, and of what is random of an image and of the mixtures.
        shuffle: a new order for each epoch.
        buffer: records from which the next one is drawn.
    """

    batch_size: int
    seed: int
    shuffle: bool
    buffer: int


def as_data(
    train: Shards,
    held_out: Shards,
    augmentation: Augmentation,
    reading: Reading,
    left_out: LeftOut,
    *,
    name: str,
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """What a source of shards hands over.

    Args:
        train: of a batch of records at least.
        held_out: for validation; of no records, there is none.
        augmentation: of the images.
        left_out: records that are.
        name: of the dataset.
        stall_seconds: kept for who waits for the batches.
    """
    return seekable(
        partial(batches, train, augmentation, reading),
        _validation(held_out, augmentation, reading.batch_size),
        name=name,
        batch_size=reading.batch_size,
        train_examples=train.rows,
        validation_examples=held_out.rows,
        shape=(*augmentation.size, augmentation.channels),
        classes=train.classes,
        fingerprint=fingerprint(train, held_out),
        left_out=left_out,
        validation_source=held_out.name if held_out.rows else "none",
        stall_seconds=stall_seconds,
        class_counts=partial(class_counts, train),
        bounded=True,
    )


def whole_records(file: Path) -> tuple[int, int]:
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


def fingerprint(*shards: Shards) -> str:
    """SHA-256 of the files' names, records and sizes in bytes."""
    digest = hashlib.sha256()
    for part in (part for each in shards for part in each.parts):
        first = f" from {part.first}" if part.first else ""
        about = f"{part.file.name} {part.count} {part.file.stat().st_size}{first}\n"
        digest.update(about.encode())
    return digest.hexdigest()


def checked_label(value: tf.Tensor, first_label: int, classes: int) -> tf.Tensor:
    """A record's label as an int32 from 0; reading one outside the classes fails."""
    import tensorflow as tf

    label = tf.cast(value, tf.int32) - first_label
    within = tf.debugging.Assert(
        (label >= 0) & (label < classes),
        [f"label outside [{first_label}, {first_label + classes}):", value],
    )
    with tf.control_dependencies([within]):
        return tf.identity(label)


def class_counts(shards: Shards) -> np.ndarray:
    """How many records each class has; reads them all, and decodes none."""
    labels = _all_records(shards).map(lambda record: shards.parse(record)[1])
    found = np.zeros(shards.classes, np.int64)
    for chunk in labels.batch(COUNTED_AT_ONCE).as_numpy_iterator():
        found += np.bincount(chunk, minlength=shards.classes)
    return found


def batches(
    shards: Shards,
    augmentation: Augmentation,
    reading: Reading,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless training batches from number `position` on; of each, where given, those rows.

    The order is a function of the seed and the epoch: shards in a new order, sixteen read at once,
    their records drawn from `buffer` records.
    """
    import tensorflow as tf

    batch_size, seed = reading.batch_size, reading.seed
    used = shards.rows // batch_size * batch_size  # records of an epoch
    first, inside = divmod(position * batch_size, used)
    load = training(augmentation)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), number])
        places = tf.range(len(shards.parts))
        if reading.shuffle:
            places = tf.argsort(tf.random.stateless_uniform([len(shards.parts)], key))
        records = _records(shards, places)
        if reading.shuffle:
            draws = tf.random.stateless_uniform([], key, None, None, tf.int64)
            # Of this function's graph: else the order would hang on the process's global seed, too,
            # and under a global seed of 0 TensorFlow refuses a seed that is a tensor.
            tf.compat.v1.set_random_seed(GRAPH_SEED)
            records = records.shuffle(reading.buffer, draws, reshuffle_each_iteration=False)
        return records.take(used).skip(tf.cast(tf.where(number == first, inside, 0), tf.int64))

    def example(number: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = shards.parse(record)
        return load(content, tf.stack([tf.constant(seed, tf.int64), number])), label

    records = tf.data.Dataset.range(first, ENDLESS).flat_map(epoch)
    dataset = made(records, example, batch_size, position, *part)
    return finished(with_mixtures(dataset, augmentation, shards.classes, seed, position))


def _validation(
    shards: Shards, augmentation: Augmentation, batch_size: int
) -> tf.data.Dataset | None:
    """Endless passes over the records in their order; None where there are none."""
    import tensorflow as tf

    if not shards.rows:
        return None
    load = validation(augmentation)

    def example(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = shards.parse(record)
        return load(content), tf.one_hot(label, shards.classes) if augmentation.mixes else label

    return finished(passes(_all_records(shards), example, batch_size))


def _all_records(shards: Shards) -> tf.data.Dataset:
    import tensorflow as tf

    return _records(shards, tf.range(len(shards.parts)))


def _records(shards: Shards, places: tf.Tensor) -> tf.data.Dataset:
    """The records of the parts with these numbers, several parts read at once."""
    import tensorflow as tf

    files = tf.constant([str(part.file) for part in shards.parts])
    firsts = tf.constant([part.first for part in shards.parts], tf.int64)
    counts = tf.constant([part.count for part in shards.parts], tf.int64)

    def read(place: tf.Tensor) -> tf.data.Dataset:
        records = tf.data.TFRecordDataset(files[place])
        return records.skip(firsts[place]).take(counts[place])

    return tf.data.Dataset.from_tensor_slices(places).interleave(
        read,
        cycle_length=min(AT_ONCE, len(shards.parts)),
        block_length=AT_ONCE,
        num_parallel_calls=min(len(shards.parts), 2 * cores()),
        deterministic=True,
    )
