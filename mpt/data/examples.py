"""Examples: as arrays, and as the endless batches that a source hands over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data.left_out import LeftOut

if TYPE_CHECKING:
    import tensorflow as tf

STALL_SECONDS = 300.0


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


def seekable(begin_at: Callable[..., tf.data.Dataset], *parts: Any, **others: Any) -> Data:
    """`counted`, of a source whose batches can begin at any one, by `begin_at`: see `Data.jump`."""
    return counted(begin_at(0), *parts, jump=begin_at, **others)


def counted(
    train: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    *,
    batch_size: int,
    train_examples: int,
    validation_examples: int,
    left_out: LeftOut,
    warnings: tuple[str, ...] = (),
    **others: Any,
) -> Data:
    """What a source hands over, with the batches of a pass counted and what is left out told.

    Args:
        left_out: rows that are.
        warnings: further ones.
        **others: `Data`'s, as they are.
    """
    return Data(
        train=train,
        validation=validation,
        validation_batches=math.ceil(validation_examples / batch_size),
        steps_per_epoch=train_examples // batch_size,
        train_examples=train_examples,
        validation_examples=validation_examples,
        element_spec=train.element_spec,
        bad_rows=left_out.count,
        bad_row_names=left_out.summary,
        warnings=(*left_out.warnings, *warnings),
        **others,
    )
