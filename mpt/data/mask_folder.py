"""Images in one folder and their masks in another: a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import checks, folders
from mpt.data.examples import STALL_SECONDS, Data, seekable
from mpt.data.left_out import LeftOut, OnError
from mpt.data.mask_pairs import IDS, Pairs, listed, locate, read, scanned
from mpt.data.masks import joint
from mpt.data.pictures import Augmentation, made, passes, sides_of
from mpt.data.pipeline import finished, order
from mpt.data.split import apart, draw
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf


def build(
    *,
    batch_size: int,
    seed: int,
    path: str,
    size: int | Sequence[int] = 256,
    channels: int = 3,
    classes: int | None = None,
    ignore: int | None = 255,
    crop_area: float | None = 0.25,
    flip: bool = True,
    center: float = 1.0,
    validation_fraction: float | None = None,
    examples: int | None = None,
    shuffle: bool = True,
    name: str = "mask_folder",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """x float32 (height, width, channels) in [0, 1], y int32 (height, width), and weights of y.

    An image and its mask have one name but for the suffix. All masks are decoded before training.

    Args:
        path: a folder with the folders `images` and `masks`; or one of `train` and `val` with both.
        classes: ids are in [0, classes), null: up to the largest; but for `ignore`, of weight 0.
        validation_fraction: null takes the folder `val` where there is one, and else 0.1.
        on_error: skip leaves out pairs that cannot be used, and decodes every image to find them.

    Raises:
        ConfigurationError: an image without a mask, a mask of colours or of an id of no class.
    """
    _check(batch_size, classes, ignore)
    augmentation = Augmentation(sides_of(size), channels, crop_area, flip, 0.0, center)
    left_out = LeftOut() if on_error == "skip" else None
    train, held_out, source, notes = _parts(path, validation_fraction, examples, left_out)
    train, counts = scanned(train, classes, ignore, left_out)
    held_out, other_counts = scanned(held_out, classes, ignore, left_out)
    why = "" if left_out is None else left_out.warning
    checks.enough(len(train.images), batch_size, str(train.folder), why)
    classes = _classes(counts, other_counts, classes, ignore, train.folder)
    return seekable(
        partial(_train, train, augmentation, ignore, batch_size, seed, shuffle),
        _validation(held_out, augmentation, ignore, batch_size),
        name=name,
        batch_size=batch_size,
        train_examples=len(train.images),
        validation_examples=len(held_out.images),
        shape=(*augmentation.size, channels),
        classes=classes,
        fingerprint=folders.fingerprint(_named(train), _named(held_out)),
        left_out=left_out or LeftOut(),
        warnings=notes,
        validation_source=source,
        stall_seconds=stall_seconds,
        locate=partial(locate, (train, held_out)),
        class_counts=partial(_counted, counts, classes, ignore),
        bounded=True,
        ignores=ignore is not None,
    )


def _check(batch_size: int, classes: int | None, ignore: int | None) -> None:
    checks.batch(batch_size)
    if classes is not None and not 2 <= classes <= IDS:
        raise ConfigurationError(
            f"{classes} is no number of classes", where="dataset.classes", allowed=[f"2 to {IDS}"]
        )
    if ignore is not None and not 0 <= ignore < IDS:
        raise ConfigurationError(
            f"{ignore} is no id in a mask", where="dataset.ignore", allowed=[f"0 to {IDS - 1}"]
        )


def _parts(
    path: str, fraction: float | None, examples: int | None, left_out: LeftOut | None
) -> tuple[Pairs, Pairs, str, tuple[str, ...]]:
    """The pairs to train on and those for validation, where the latter come from, and warnings."""
    folder, other = folders.parts_of(Path(path).expanduser())
    pairs, notes = listed(folder, left_out)
    rows = np.arange(len(pairs.images))
    none = np.zeros(len(rows), np.int32)  # an image is of no single class
    if other is not None and fraction is None:
        rows = draw(none, rows, examples)
        held_out, more = listed(other, left_out)
        return pairs.only(rows), held_out, other.name, (*notes, *more)
    share = folders.HELD_OUT_SHARE if fraction is None else fraction
    train, validation, source = apart(none, rows, examples, share)
    return pairs.only(train), pairs.only(validation), source, tuple(notes)


def _classes(
    counts: np.ndarray,
    other_counts: np.ndarray,
    classes: int | None,
    ignore: int | None,
    folder: Path,
) -> int:
    """The number of classes. Refuses masks that hold one class alone."""
    ids = np.flatnonzero(counts + other_counts)
    present = ids[ids != ignore]
    if len(present) < 2:
        what = f"the id {present[0]} alone" if len(present) else "no class"
        beside = f" beside {ignore}, which is ignored" if ignore in ids else ""
        raise ConfigurationError(
            f"the masks of {folder} hold {what}{beside}",
            where="dataset.ignore" if beside else "dataset.path",
            remedy="save masks of 0 and 255 as masks of 0 and 1, and those of one class with their "
            "background as another",
        )
    return int(present[-1]) + 1 if classes is None else classes


def _counted(counts: np.ndarray, classes: int, ignore: int | None) -> np.ndarray:
    """Pixels of each class: int64 (classes,)."""
    found = counts[:classes].copy()
    if ignore is not None and ignore < classes:
        found[ignore] = 0
    return found


def _named(pairs: Pairs) -> Iterator[tuple[str, Path]]:
    """The name of each image and of its mask, and the file."""
    for row in range(len(pairs.images)):
        for file in (pairs.image(row), pairs.mask(row)):
            yield file.name, file


def _train(
    pairs: Pairs,
    augmentation: Augmentation,
    ignore: int | None,
    batch_size: int,
    seed: int,
    shuffle: bool,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless batches from number `position` on; of each, where `part` is given, those rows."""
    import tensorflow as tf

    pair, load = read(pairs), joint(augmentation, ignore, training=True)

    def example(number: tf.Tensor, row: tf.Tensor) -> tuple[Any, ...]:
        content, ids = pair(row)
        return load(content, ids(), tf.stack([tf.constant(seed, tf.int64), number]))

    rows = order(len(pairs.images), batch_size, seed, shuffle, position).unbatch()
    return finished(made(rows, example, batch_size, position, *part))


def _validation(
    pairs: Pairs, augmentation: Augmentation, ignore: int | None, batch_size: int
) -> tf.data.Dataset | None:
    """Endless passes over the images in their order; None where there are none."""
    import tensorflow as tf

    if not pairs.images:
        return None
    pair, load = read(pairs), joint(augmentation, ignore, training=False)

    def example(row: tf.Tensor) -> tuple[Any, ...]:
        content, ids = pair(row)
        return load(content, ids(), None)

    return finished(passes(tf.data.Dataset.range(len(pairs.images)), example, batch_size))
