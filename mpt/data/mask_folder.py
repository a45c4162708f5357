"""Images in one folder and their masks in another: a class for each pixel."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import checks
from mpt.data.broken import LeftOut, OnError
from mpt.data.image_folder import HELD_OUT, HELD_OUT_SHARE, SPLIT_SEED, TRAINING
from mpt.data.mask_pairs import IDS, Pairs, listed, locate, read, scanned
from mpt.data.masks import joint
from mpt.data.pictures import Augmentation, made, sides_of
from mpt.data.pipeline import STALL_SECONDS, finished, order
from mpt.data.split import draw, split
from mpt.device import cores
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.pipeline import Data


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

    An image and its mask have the same name but for the suffix. All masks are decoded once, before
    training. What is random of a training image follows from `seed` and its place in training, so
    that a run can be repeated and gone on with.

    Args:
        batch_size: rows in a training batch.
        seed: of the order, the crops and the mirroring.
        path: a folder with the folders `images` and `masks`; or one with `train` and `val`, each
            of which has these two.
        size: that the model gets, pixels: of both sides, or (height, width).
        channels: 1 or 3; images of other channels are converted.
        classes: ids are in [0, classes), but for `ignore`; null takes the largest id plus one.
        ignore: id of pixels that count neither in the loss nor in the metrics: their weight is 0.
            null: there are none, and no weights.
        crop_area: smallest share of an image's area in a training image's random crop; null takes
            the centre, as validation does.
        flip: mirror half of the training images, left for right.
        center: share of a side that is kept around the centre in validation.
        validation_fraction: this share of the images is for validation; null takes the folder
            `val` where there is one, and else 0.1.
        examples: draw only so many of the training images.
        shuffle: a new order for each epoch.
        name: of the dataset.
        on_error: skip leaves out pairs that cannot be used; fail refuses them. An image that cannot
            be decoded is found before training by skip, in training by fail.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: no such folders, an image without a mask, a mask of colours, of another
            size or with an id that is no class's, or values out of range.
    """
    from mpt.data.pipeline import Data

    checks.batch(batch_size)
    augmentation = Augmentation(sides_of(size), channels, crop_area, flip, 0.0, center)
    _check_ids(classes, ignore)
    left_out = LeftOut() if on_error == "skip" else None
    train, held_out, source, notes = _parts(
        Path(path).expanduser(), validation_fraction, examples, left_out
    )
    found = [scanned(part, classes, ignore, left_out) for part in (train, held_out)]
    (train, counts), (held_out, other_counts) = found
    why = "" if left_out is None else left_out.warning
    checks.enough(len(train.images), batch_size, str(train.folder), why)
    classes = _classes(counts, other_counts, classes, ignore, train.folder)
    begin_at = partial(_train, train, augmentation, ignore, batch_size, seed, shuffle)
    dataset, rows = begin_at(0), len(held_out.images)
    return Data(
        name=name,
        train=dataset,
        validation=_validation(held_out, augmentation, ignore, batch_size) if rows else None,
        validation_batches=math.ceil(rows / batch_size),
        steps_per_epoch=len(train.images) // batch_size,
        train_examples=len(train.images),
        validation_examples=rows,
        shape=(*augmentation.size, channels),
        classes=classes,
        element_spec=dataset.element_spec,
        fingerprint=_fingerprint(train, held_out),
        bad_rows=left_out.count if left_out else 0,
        bad_row_names=left_out.summary if left_out else (),
        warnings=(*(left_out.warnings if left_out else ()), *notes),
        validation_source=source,
        jump=begin_at,
        stall_seconds=stall_seconds,
        locate=partial(locate, (train, held_out)),
        class_counts=partial(_counted, counts, classes, ignore),
        bounded=True,
        ignores=ignore is not None,
    )


def _check_ids(classes: int | None, ignore: int | None) -> None:
    if classes is not None and not 2 <= classes <= IDS:
        raise ConfigurationError(
            f"{classes} is no number of classes", where="dataset.classes", allowed=[f"2 to {IDS}"]
        )
    if ignore is not None and not 0 <= ignore < IDS:
        raise ConfigurationError(
            f"{ignore} is no id in a mask", where="dataset.ignore", allowed=[f"0 to {IDS - 1}"]
        )


def _parts(
    path: Path, fraction: float | None, examples: int | None, left_out: LeftOut | None
) -> tuple[Pairs, Pairs, str, list[str]]:
    """The pairs to train on and those for validation, where the latter come from, and warnings."""
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder", where="dataset.path")
    own = path / TRAINING
    pairs, notes = listed(own if own.is_dir() else path, left_out)
    rows = np.arange(len(pairs.images))
    others = [path / name for name in HELD_OUT if own.is_dir() and (path / name).is_dir()]
    none = np.zeros(len(rows), np.int32)  # an image is of no single class
    rows = draw(none, rows, examples, SPLIT_SEED)
    if others and fraction is None:
        held_out, more = listed(others[0], left_out)
        return pairs.only(rows), held_out, others[0].name, notes + more
    share = checks.fraction(HELD_OUT_SHARE if fraction is None else fraction)
    train, validation = split(none, rows, share, SPLIT_SEED)
    source = f"{share:g} of the training examples" if share else "none"
    return pairs.only(train), pairs.only(validation), source, notes


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


def _fingerprint(*parts: Pairs) -> str:
    """SHA-256 of the files' names and sizes in bytes."""
    digest = hashlib.sha256()
    for part in parts:
        for row in range(len(part.images)):
            for file in (part.image(row), part.mask(row)):
                about = f"{file.name} {file.stat().st_size}\n"
                digest.update(about.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()


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
) -> tf.data.Dataset:
    """Endless passes over the images in their order."""
    import tensorflow as tf

    pair, load = read(pairs), joint(augmentation, ignore, training=False)

    def example(row: tf.Tensor) -> tuple[Any, ...]:
        content, ids = pair(row)
        return load(content, ids(), None)

    dataset = tf.data.Dataset.range(len(pairs.images))
    dataset = dataset.map(example, num_parallel_calls=cores(), deterministic=True)
    return finished(dataset.batch(batch_size).repeat())
