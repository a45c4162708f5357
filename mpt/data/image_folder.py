"""Images in a folder for each class."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import checks
from mpt.data.broken import LeftOut, OnError
from mpt.data.mixtures import with_mixtures
from mpt.data.pictures import (
    SUFFIXES,
    Augmentation,
    made,
    sides_of,
    training,
    validation,
)
from mpt.data.pipeline import STALL_SECONDS, finished, order
from mpt.data.split import draw, split
from mpt.device import cores
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.pipeline import Data

TRAINING = "train"
HELD_OUT = ("val", "validation", "valid", "test")
HELD_OUT_SHARE = 0.1
SPLIT_SEED = 0
LOCATING_SECONDS = 60.0


@dataclass(frozen=True)
class Files:
    """Image files and their classes.

    Attributes:
        paths: bytes (rows,), in the order of their names.
        labels: int32 (rows,).
        folder: that holds the folders of the classes.
        others: files that are no images, by their suffix.
    """

    paths: np.ndarray
    labels: np.ndarray
    folder: Path
    others: Counter[str]

    def only(self, rows: np.ndarray) -> Files:
        return Files(self.paths[rows], self.labels[rows], self.folder, self.others)

    def name(self, row: int) -> str:
        """The path of one of them within the folder."""
        return os.path.relpath(os.fsdecode(self.paths[row]), self.folder)


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
    validation_fraction: float | None = None,
    examples: int | None = None,
    shuffle: bool = True,
    name: str = "image_folder",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """x float32 (height, width, channels) in [0, 1], y int32; with mixtures y float32 (classes,).

    The classes are the names of the folders, in their order. What is random of a training image
    follows from `seed` and its place in training, so that a run can be repeated and gone on with.

    Args:
        batch_size: rows in a training batch.
        seed: of the order, and of what is random of an image and of the mixtures.
        path: a folder of class folders; or one with `train` and `val`, each of class folders.
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
        validation_fraction: this share of the images is for validation; null takes the folder
            `val` where there is one, and else 0.1.
        examples: draw only so many of the training images, each class in its share.
        shuffle: a new order for each epoch.
        name: of the dataset.
        on_error: skip decodes every image before training, and leaves out what cannot be decoded;
            fail ends the run at such an image, and names it.
        stall_seconds: a batch that takes longer to come is taken for one that never will.

    Raises:
        ConfigurationError: no such folder, a class without images, classes that differ between
            the folders, or values out of range.
    """
    from mpt.data.pipeline import Data

    checks.batch(batch_size)
    augmentation = Augmentation(
        sides_of(size), channels, crop_area, flip, mixup, center, cutmix, randaugment, magnitude
    )
    files, held_out, source = _parts(Path(path).expanduser(), validation_fraction, examples)
    classes = len(_class_folders(files.folder))
    left_out = LeftOut()
    if on_error == "fail":
        _refuse_empty((files, held_out))
    else:
        files, held_out = (_decodable(part, left_out, channels) for part in (files, held_out))
    checks.enough(len(files.paths), batch_size, str(files.folder), left_out.warning)
    begin_at = partial(_train, files, augmentation, classes, batch_size, seed, shuffle)
    train = begin_at(0)
    rows = len(held_out.paths)
    return Data(
        name=name,
        train=train,
        validation=_validation(held_out, augmentation, classes, batch_size) if rows else None,
        validation_batches=math.ceil(rows / batch_size),
        steps_per_epoch=len(files.paths) // batch_size,
        train_examples=len(files.paths),
        validation_examples=rows,
        shape=(*augmentation.size, channels),
        classes=classes,
        element_spec=train.element_spec,
        fingerprint=_fingerprint(files, held_out),
        bad_rows=left_out.count,
        bad_row_names=left_out.summary,
        warnings=(*left_out.warnings, *_others(files.others + held_out.others)),
        validation_source=source,
        jump=begin_at,
        stall_seconds=stall_seconds,
        locate=partial(_locate, (files, held_out), channels),
        class_counts=partial(np.bincount, files.labels, minlength=classes),
        bounded=True,
    )


def _parts(path: Path, fraction: float | None, examples: int | None) -> tuple[Files, Files, str]:
    """The images to train on and those for validation, and where the latter come from."""
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder", where="dataset.path")
    own = path / TRAINING
    files = _listed(own if own.is_dir() else path)
    rows = np.arange(len(files.labels))
    others = [path / name for name in HELD_OUT if own.is_dir() and (path / name).is_dir()]
    if others and fraction is None:
        held_out = _listed(others[0], list(_class_folders(files.folder)))
        return files.only(draw(files.labels, rows, examples, SPLIT_SEED)), held_out, others[0].name
    share = checks.fraction(HELD_OUT_SHARE if fraction is None else fraction)
    rows = draw(files.labels, rows, examples, SPLIT_SEED)
    train, validation = split(files.labels, rows, share, SPLIT_SEED)
    source = f"{share:g} of the training examples" if share else "none"
    return files.only(train), files.only(validation), source


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _listed(folder: Path, expected: list[str] | None = None) -> Files:
    """The images in the folders of `folder`.

    Args:
        expected: the classes of the training images.
    """
    classes = _class_folders(folder)
    if not classes:
        raise ConfigurationError(
            f"{folder} has no folders of classes",
            where="dataset.path",
            remedy="put the images of each class into a folder of its own",
        )
    if expected is not None and classes != expected:
        odd = sorted(set(classes) ^ set(expected))
        raise ConfigurationError(
            f"{folder.name} and {TRAINING} have different classes: {', '.join(odd[:5])}",
            where="dataset.path",
            remedy="give both the same folders",
        )
    paths: list[bytes] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(classes):
        found = sorted(e.path for e in os.scandir(folder / name) if e.is_file())
        images = [file for file in found if Path(file).suffix.lower() in SUFFIXES]
        others.update(Path(file).suffix or Path(file).name for file in found if file not in images)
        if not images:
            holds = f"{len(found)} files, as {Path(found[0]).name}" if found else "nothing"
            raise ConfigurationError(
                f"the class folder {name!r} has no images: it holds {holds}",
                where=str(folder / name),
                allowed=SUFFIXES,
                remedy="remove the folder, or put the class's images there",
            )
        paths += map(os.fsencode, images)
        labels += [label] * len(images)
    return Files(np.array(paths, object), np.array(labels, np.int32), folder, others)


def _refuse_empty(parts: Sequence[Files]) -> None:
    """Refuse files of no bytes, which a copy that was cut short leaves: they cost no reading."""
    for files in parts:
        empty = [row for row, path in enumerate(files.paths) if os.stat(path).st_size == 0]
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            raise ConfigurationError(
                f"image {files.name(empty[0])}{more} of {files.folder} has no bytes",
                where="dataset.path",
                remedy="copy the files again, or set dataset.on_error=skip to leave out what "
                "cannot be read",
            )


def _others(others: Counter[str]) -> tuple[str, ...]:
    if not others:
        return ()
    named = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
    return (f"{others.total()} files in the class folders are no images: {named}",)


def _fingerprint(*parts: Files) -> str:
    """SHA-256 of the images' names, classes and sizes in bytes."""
    digest = hashlib.sha256()
    for part in parts:
        for row, path in enumerate(part.paths):
            about = f"{part.name(row)} {part.labels[row]} {os.stat(path).st_size}\n"
            digest.update(about.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()


def _read(files: Files) -> Any:
    """A function from a row to the file's bytes and the label."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        paths, labels = tf.constant(files.paths, tf.string), tf.constant(files.labels)
    return lambda row: (tf.io.read_file(tf.gather(paths, row)), tf.gather(labels, row))


def _train(
    files: Files,
    augmentation: Augmentation,
    classes: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    position: int = 0,
    *part: int,
) -> tf.data.Dataset:
    """Endless batches from number `position` on; of each, where `part` is given, those rows."""
    import tensorflow as tf

    read, load = _read(files), training(augmentation)

    def example(number: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = read(row)
        return load(content, tf.stack([tf.constant(seed, tf.int64), number])), label

    rows = order(len(files.paths), batch_size, seed, shuffle, position).unbatch()
    dataset = made(rows, example, batch_size, position, *part)
    return finished(with_mixtures(dataset, augmentation, classes, seed, position))


def _validation(
    files: Files, augmentation: Augmentation, classes: int, batch_size: int
) -> tf.data.Dataset:
    """Endless passes over the images in their order."""
    import tensorflow as tf

    read, load = _read(files), validation(augmentation)

    def example(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = read(row)
        return load(content), tf.one_hot(label, classes) if augmentation.mixes else label

    dataset = tf.data.Dataset.range(len(files.paths))
    dataset = dataset.map(example, num_parallel_calls=cores(), deterministic=True)
    return finished(dataset.batch(batch_size).repeat())


def _broken(files: Files, channels: int, seconds: float = math.inf) -> list[int]:
    """Rows of images that cannot be decoded, as far as that is known after some time."""
    import tensorflow as tf

    read = _read(files)

    def decoded(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(read(row)[0], channels=channels, expand_animations=False)
        return row, tf.size(image)

    rows = tf.data.Dataset.range(len(files.paths))
    whole = rows.map(decoded, num_parallel_calls=cores(), deterministic=True).ignore_errors()
    end, expected = time.monotonic() + seconds, 0
    broken: list[int] = []
    for row, _ in whole.as_numpy_iterator():
        broken += range(expected, int(row))
        expected = int(row) + 1
        if time.monotonic() > end:
            return broken
    return [*broken, *range(expected, len(files.paths))]


def _decodable(files: Files, left_out: LeftOut, channels: int) -> Files:
    """The images that can be decoded; the others are counted and named."""
    broken = _broken(files, channels)
    left_out.of += len(files.paths)
    for row in broken:
        left_out.add(f"{files.name(row)}: {_why(files, row, channels)}")
    return files.only(np.setdiff1d(np.arange(len(files.paths)), broken))


def _why(files: Files, row: int, channels: int) -> str:
    """What TensorFlow says of an image that it cannot decode."""
    import tensorflow as tf

    from mpt.data.errors import words

    try:
        tf.io.decode_image(tf.io.read_file(files.paths[row]), channels=channels)
    except tf.errors.OpError as error:
        return words(error)
    return "it could not be read before"


def _locate(parts: Sequence[Files], channels: int) -> str | None:
    """The first image that cannot be decoded; None where none is found in a minute."""
    for files in parts:
        broken = _broken(files, channels, LOCATING_SECONDS)
        if broken:
            return f"image {files.name(broken[0])} of {files.folder}"
    return None
