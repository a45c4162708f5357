"""From arrays to endless `tf.data` pipelines: the part that all sources share.

The order of the training examples is a function of the seed and the place alone, so that a run can
be repeated and resumed; the autotuner is off because it delays the end of a run, and every degree
of parallelism is a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import broken, checks
from mpt.data.broken import OnError
from mpt.data.split import draw, split

if TYPE_CHECKING:
    import tensorflow as tf

SPLIT_SEED = 0
PARALLEL_BATCHES = 2
PREFETCHED_BATCHES = 4
ENDLESS = 2**40
STALL_SECONDS = 300.0
BATCHES_PER_ORDER = 128
"""Batches for which the order is drawn at once, at the least: whole epochs, if several of a small
dataset. To draw 11 batches' order costs as much as to draw 128 batches'."""

COUNTED_AT_ONCE = 4096
"""Rows of labels."""

MEMORY_MAP_ABOVE = 64 * 2**20
"""Bytes up to which a mapped file is read into memory, which is faster."""


@dataclass(frozen=True)
class Data:
    """What a source hands over.

    Attributes:
        name: of the source.
        train: endless batches (x, y[, sample_weight]) of exactly `batch_size` rows.
        validation: whole passes over the validation examples, repeated without end, the last batch
            of a pass as small as it falls; None where there are no validation examples.
        validation_batches: in one pass; 0 without validation.
        steps_per_epoch: full batches in one pass over the training examples.
        train_examples, validation_examples: rows in one pass.
        shape: of x, without the batch; None where x is a structure of several arrays.
        classes: labels are in [0, classes); None where y is not a class.
        element_spec: of `train`.
        fingerprint: SHA-256 of the content (of maps above 4 GiB, of a part of it), or of what a
            function's dataset is told by, and of what is left out.
        bad_rows: rows that are left out as broken.
        bad_row_names: the first of them and what is wrong with each, then how many more there are.
        warnings: what the user should know before training starts.
        validation_source: where the validation examples come from, in words.
        jump: the batches of `train` from a position on, without making those before it; given
            two numbers too, of each batch only the rows from the first one up to the second,
            without making the others (where rows are mixed, they are mixed with each other). None
            where only reading leads there.
        stall_seconds: a batch that takes longer to come is taken for one that never will.
        reshuffles: who reads `train` again from its start gets another order.
        locate: reads again for the first example that cannot be made, and names it; None where
            there is none to find.
        class_counts: how many training examples, or places of them, each class has: int64
            (classes,); None where that is not known without reading them.
        bounded: x is one tensor of numbers from -1 to 1, which half precision holds.
        ignores: sample_weight, of y's shape, is 0 at places that are to count for nothing, in the
            loss and in the metrics.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset | None
    validation_batches: int
    steps_per_epoch: int
    train_examples: int
    validation_examples: int
    shape: tuple[int | None, ...] | None
    classes: int | None
    element_spec: Any
    fingerprint: str
    bad_rows: int = 0
    bad_row_names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    validation_source: str = "none"
    jump: Callable[..., tf.data.Dataset] | None = None
    stall_seconds: float = STALL_SECONDS
    reshuffles: bool = False
    locate: Callable[[], str | None] | None = None
    class_counts: Callable[[], np.ndarray] | None = None
    bounded: bool = False
    ignores: bool = False

    def at(self, position: int, *rows: int) -> tf.data.Dataset:
        """The batches of `train` from batch number `position` on, which counts from 0.

        Args:
            rows: two numbers: of each batch only the rows from the one up to the other; only with
                `jump`.

        Array sources go there at once; a dataset from Python is read up to there, so that the
        batches are those of `train` only where the user's function gives the same ones each time.
        """
        if position < 0:
            raise ValueError(f"there is no batch {position}")
        return self.train.skip(position) if self.jump is None else self.jump(position, *rows)


@dataclass(frozen=True)
class Examples:
    """Arrays x (rows, *shape) and y (rows, ...); memory maps are kept as such.

    Attributes:
        where: names the file or source in messages.
        names: of the arrays, each in a word or two, where `where` does not tell.
        tokens: x holds ids, which stay whole numbers even where they are bytes.
    """

    x: np.ndarray
    y: np.ndarray
    where: str
    names: tuple[str, str] | None = None
    tokens: bool = False

    def called(self, array: str) -> str:
        """A short name of x or y."""
        if self.names is not None:
            return self.names["xy".index(array)]
        return f"{Path(self.where).name} ({array})"


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
        examples: the training examples, from which validation examples are drawn where
            `validation_fraction` is a number.
        held_out: the validation examples where `validation_fraction` is None.
        name: of the source.
        batch_size: rows in a training batch.
        seed: of the order. The draws do not follow it: a model that goes on from the weights of
            another seed's run must not meet that run's training examples in its validation.
        validation_fraction: share of the rows drawn for validation, in [0, 1), by class where y is
            a class.
        shuffle: a new order for each epoch; False keeps the rows' own.
        classes: labels must be in [0, classes); None takes the largest label plus one where y
            holds integers.
        take: draw only so many rows before the split; None takes all.
        scale: factor for x.
        held_out_name: names `held_out` in `Data.validation_source`.
        on_error: `skip` leaves broken rows out, before the draws; `fail` refuses them.
        stall_seconds: kept for who waits for the batches.

    Raises:
        ConfigurationError: as `mpt.data.checks` and `mpt.data.broken` say.
    """
    checks.batch(batch_size)
    parts = [checks.numbers(part) for part in (examples, held_out) if part is not None]
    examples = parts[0]
    if len(parts) == 2 and parts[1].x.shape[1:] != examples.x.shape[1:]:
        raise checks.different_shapes(examples, parts[1])
    classes, found, kept = broken.find(parts, classes)
    if on_error == "fail":
        broken.refuse(found)
    own = validation_fraction is None and len(parts) == 2  # validation examples of their own
    used = parts if own else parts[:1]
    left_out = broken.leave_out(used, found[: len(used)])
    train_rows = draw(examples.y, kept[0], take, SPLIT_SEED)
    if own:
        held_out_rows, source = kept[1], held_out_name
    else:
        fraction = checks.fraction(validation_fraction or 0.0)
        train_rows, held_out_rows = split(examples.y, train_rows, fraction, SPLIT_SEED)
        source = f"{fraction:g} of the training examples" if fraction else "none"
    checks.enough(len(train_rows), batch_size, examples.where, left_out.warning)
    gather = _gather(examples, train_rows, scale)
    begin_at = partial(_train, gather, len(train_rows), batch_size, seed, shuffle)
    train = begin_at(0)
    validation = None
    if len(held_out_rows):
        gather_held_out = _gather(used[-1], held_out_rows, scale)
        validation = _validation(gather_held_out, len(held_out_rows), batch_size)
    return Data(
        name=name,
        train=train,
        validation=validation,
        validation_batches=math.ceil(len(held_out_rows) / batch_size),
        steps_per_epoch=len(train_rows) // batch_size,
        train_examples=len(train_rows),
        validation_examples=len(held_out_rows),
        shape=tuple(examples.x.shape[1:]),
        classes=classes,
        element_spec=train.element_spec,
        fingerprint=checks.fingerprint(parts, kept if left_out.count else ()),
        bad_rows=left_out.count,
        bad_row_names=left_out.summary,
        warnings=left_out.warnings,
        validation_source=source,
        jump=begin_at,
        stall_seconds=stall_seconds,
        class_counts=partial(_class_counts, examples.y, train_rows, classes) if classes else None,
        bounded=examples.x.dtype == np.uint8 and not examples.tokens and (scale or 0) <= 1 / 255,
    )


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
    gather: Callable,
    rows: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless batches from number `position` on; `gather` takes int32 positions (batch_size,).

    Args:
        part: rows of each batch, from one up to another; none: all of them.
    """
    dataset = order(rows, batch_size, seed, shuffle, position)
    if part:
        dataset = dataset.map(lambda positions: positions[slice(*part)])
    return finished(dataset.map(gather, num_parallel_calls=PARALLEL_BATCHES, deterministic=True))


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


def _validation(gather: Callable, rows: int, batch_size: int) -> tf.data.Dataset:
    """Endless passes over `rows` rows in their order."""
    import tensorflow as tf

    def batch(start: tf.Tensor) -> Any:
        start = tf.cast(start, tf.int32)
        return gather(tf.range(start, tf.minimum(start + batch_size, rows)))

    dataset = tf.data.Dataset.range(0, rows, batch_size).repeat()
    return finished(dataset.map(batch, num_parallel_calls=PARALLEL_BATCHES, deterministic=True))


def _gather(examples: Examples, rows: np.ndarray, scale: float | None) -> Callable:
    """A function from positions (batch,) in `rows` to the batch (x, y) of those rows."""
    import tensorflow as tf

    x_type = _x_type(examples, scale)
    y_type = "float32" if examples.y.dtype.kind == "f" else "int32"
    if scale is None and examples.x.dtype == np.uint8 and not examples.tokens:
        scale = 1 / 255
    if is_large_map(examples.x) or is_large_map(examples.y):
        take = _from_files(examples, rows)
    else:
        with tf.device("CPU:0"):  # tf.data runs there, wherever the model trains
            x = tf.constant(_in_memory(examples.x, rows))
            y = tf.constant(_in_memory(examples.y, rows))

        def take(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.gather(x, positions), tf.gather(y, positions)

    def gather(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_batch, y_batch = take(positions)
        x_batch = tf.cast(x_batch, x_type)
        if scale is not None:
            x_batch = x_batch * tf.constant(scale, x_type)
        return x_batch, tf.cast(y_batch, y_type)

    return gather


def _from_files(examples: Examples, rows: np.ndarray) -> Callable:
    import tensorflow as tf

    stored = [_small(examples.x.dtype), _small(examples.y.dtype)]

    def read(positions: np.ndarray) -> list[np.ndarray]:
        wanted = rows[positions]
        return [
            np.asarray(part[wanted]).astype(kind, copy=False)
            for part, kind in zip((examples.x, examples.y), stored, strict=True)
        ]

    def take(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = tf.numpy_function(read, [positions], stored, stateful=False)
        x.set_shape([*positions.shape, *examples.x.shape[1:]])
        y.set_shape([*positions.shape, *examples.y.shape[1:]])
        return x, y

    return take


def _x_type(examples: Examples, scale: float | None) -> str:
    """The dtype in which x reaches the model."""
    x = examples.x
    whole = x.dtype.kind in "iu" and x.dtype != np.uint8 and scale is None
    return "int32" if whole or examples.tokens else "float32"


def is_large_map(array: np.ndarray) -> bool:
    """Whether `array` is a file's map that is not to be read into memory."""
    return isinstance(array, np.memmap) and array.nbytes > MEMORY_MAP_ABOVE


def _in_memory(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(rows) == len(array) and np.array_equal(rows, np.arange(len(rows))):
        return np.asarray(array, dtype=_small(array.dtype))
    return np.asarray(array[rows], dtype=_small(array.dtype))


def _small(dtype: np.dtype) -> np.dtype:
    """What is kept of `dtype`: bytes as they are, else 32 bits."""
    if dtype.kind == "b":
        return np.dtype(np.int32)
    if dtype in (np.uint8, np.int8, np.int16, np.float16):
        return dtype.newbyteorder("=")
    return np.dtype(np.float32 if dtype.kind == "f" else np.int32)
