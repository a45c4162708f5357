"""From arrays to endless `tf.data` pipelines: the part that all sources share.

The order of the training examples is a function of the seed and the place alone, so that a run can
be repeated and resumed; the autotuner is off because it delays the end of a run, and every degree
of parallelism is a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import broken, checks
from mpt.data.examples import STALL_SECONDS, Data, Examples, seekable
from mpt.data.gathering import gather
from mpt.data.left_out import OnError
from mpt.data.split import apart, draw

if TYPE_CHECKING:
    import tensorflow as tf

PARALLEL_BATCHES = 2
PREFETCHED_BATCHES = 4
ENDLESS = 2**40
BATCHES_PER_ORDER = 128
"""Batches for which the order is drawn at once, at the least: whole epochs, if several of a small
dataset. To draw 11 batches' order costs as much as to draw 128 batches'."""

COUNTED_AT_ONCE = 4096
"""Rows of labels."""


def from_arrays(
    examples: Examples,
    held_out: Examples | None = None,
    *,
    name: str,
    batch_size: int,
    seed: int,
    validation_fraction: float | None,
    shuffle: bool,
    classes: int | None,
    take: int | None = None,
    scale: float | None = None,
    held_out_name: str = "official test split",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Checked, split and batched examples.

    x comes out as float32: uint8 is multiplied by `scale`, 1/255 by default, and other numbers are
    only converted; signed and wider integers stay integers (int32: token ids) unless there is a
    scale. y comes out as int32 where it holds integers, else as float32.

    Args:
        examples: to train on, and to draw `validation_fraction` from, where that is a number.
        held_out: the validation examples where `validation_fraction` is None.
        classes: labels must be in [0, classes); None takes the largest integer label plus one.
        held_out_name: names `held_out` in `Data.validation_source`.

    Raises:
        ConfigurationError: as `mpt.data.checks` and `mpt.data.broken` say.
    """
    checks.batch(batch_size)
    parts = _alike(examples, held_out)
    classes, found, kept = broken.find(parts, classes)
    if on_error == "fail":
        broken.refuse(found)
    own = validation_fraction is None and held_out is not None  # validation examples of their own
    used = parts if own else parts[:1]
    left_out = broken.leave_out(used, found[: len(used)])
    if own:
        rows, held_out_rows, source = draw(parts[0].y, kept[0], take), kept[1], held_out_name
    else:
        rows, held_out_rows, source = apart(parts[0].y, kept[0], take, validation_fraction or 0.0)
    checks.enough(len(rows), batch_size, parts[0].where, left_out.warning)
    return seekable(
        partial(_train, gather(parts[0], rows, scale), len(rows), batch_size, seed, shuffle),
        _validation(used[-1], held_out_rows, scale, batch_size),
        name=name,
        batch_size=batch_size,
        train_examples=len(rows),
        validation_examples=len(held_out_rows),
        shape=tuple(parts[0].x.shape[1:]),
        classes=classes,
        fingerprint=checks.fingerprint(parts, kept if left_out.count else ()),
        left_out=left_out,
        validation_source=source,
        stall_seconds=stall_seconds,
        class_counts=partial(_class_counts, parts[0].y, rows, classes) if classes else None,
        bounded=_is_bounded(parts[0], scale),
    )


def _alike(examples: Examples, held_out: Examples | None) -> list[Examples]:
    """The parts that there are, checked; both have examples of one shape."""
    parts = [checks.numbers(part) for part in (examples, held_out) if part is not None]
    if len(parts) == 2 and parts[1].x.shape[1:] != parts[0].x.shape[1:]:
        raise checks.different_shapes(*parts)
    return parts


def _is_bounded(examples: Examples, scale: float | None) -> bool:
    return examples.x.dtype == np.uint8 and not examples.tokens and (scale or 0) <= 1 / 255


def _class_counts(y: np.ndarray, rows: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros(classes, np.int64)
    for start in range(0, len(rows), COUNTED_AT_ONCE):
        labels = y[rows[start : start + COUNTED_AT_ONCE]]
        counts += np.bincount(labels.ravel().astype(np.int64), minlength=classes)
    return counts


def finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`dataset` with prefetching, in a fixed order, and without the autotuner."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return dataset.prefetch(PREFETCHED_BATCHES).with_options(options)


def _train(
    taken: Callable,
    rows: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless batches from number `position` on, as `taken` makes them of int32 positions.

    Args:
        part: rows of each batch, from one up to another; none: all of them.
    """
    dataset = order(rows, batch_size, seed, shuffle, position)
    if part:
        dataset = dataset.map(lambda positions: positions[slice(*part)])
    return finished(dataset.map(taken, num_parallel_calls=PARALLEL_BATCHES, deterministic=True))


def order(
    rows: int, batch_size: int, seed: int, shuffle: bool, position: int = 0
) -> tf.data.Dataset:
    """Endless int32 (batch_size,): which of the rows make up each batch, from `position` on."""
    import tensorflow as tf

    steps = rows // batch_size
    epochs = math.ceil(BATCHES_PER_ORDER / steps)
    first, inside = divmod(position, epochs * steps)

    def orders(block: tf.Tensor) -> tf.data.Dataset:
        if shuffle:
            # Sorting random keys shuffles; index_shuffle, which needs no sorting, gives nearly the
            # same order to neighbouring epochs (correlation 0.89 at 60,000 rows).
            keys = tf.random.stateless_uniform(
                [epochs, rows],
                seed=tf.stack([tf.constant(seed, tf.int64), block]),
                minval=None,
                maxval=None,
                dtype=tf.int32,
            )
            order = tf.argsort(keys, axis=-1, stable=True)
        else:
            order = tf.tile(tf.range(rows)[tf.newaxis], [epochs, 1])
        whole = tf.reshape(order[:, : steps * batch_size], [epochs * steps, batch_size])
        passed = tf.where(block == first, inside, 0)
        return tf.data.Dataset.from_tensor_slices(whole[passed:])

    return tf.data.Dataset.range(first, ENDLESS).flat_map(orders)


def own_rows(
    numbered: tf.data.Dataset, batch_size: int, first: int = 0, last: int | None = None
) -> tuple[tf.data.Dataset, int]:
    """Of each batch the rows from `first` up to `last`, before they are made, and their number.

    Args:
        numbered: (number of the row in the whole order, what it is made of).
    """
    last = batch_size if last is None else last
    if last - first == batch_size:
        return numbered, batch_size

    def is_own(number: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        place = number % batch_size
        return (place >= first) & (place < last)

    return numbered.filter(is_own), last - first


def _validation(
    examples: Examples, rows: np.ndarray, scale: float | None, batch_size: int
) -> tf.data.Dataset | None:
    """Endless passes over `rows` in their order; None where there are none."""
    import tensorflow as tf

    if not len(rows):
        return None
    count, taken = len(rows), gather(examples, rows, scale)

    def batch(start: tf.Tensor) -> Any:
        start = tf.cast(start, tf.int32)
        return taken(tf.range(start, tf.minimum(start + batch_size, count)))

    dataset = tf.data.Dataset.range(0, count, batch_size).repeat()
    return finished(dataset.map(batch, num_parallel_calls=PARALLEL_BATCHES, deterministic=True))
