"""Images in a folder for each class."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data import checks, folders
from mpt.data.examples import STALL_SECONDS, Data, seekable
from mpt.data.left_out import LeftOut, OnError
from mpt.data.mixtures import with_mixtures
from mpt.data.pictures import (
    SUFFIXES,
    Augmentation,
    made,
    passes,
    sides_of,
    training,
    validation,
)
from mpt.data.pipeline import finished, order
from mpt.data.split import apart, draw
from mpt.device import cores
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

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

    The classes are the names of the folders, in their order.

    Args:
        path: a folder of class folders; or one with `train` and `val`, each of class folders.
        validation_fraction: null takes the folder `val` where there is one, and else 0.1.
        on_error: skip decodes every image before training; fail ends the run at a broken one.

    Raises:
        ConfigurationError: no such folder, a class without images, or of one folder alone.
    """
    checks.batch(batch_size)
    augmentation = Augmentation(
        sides_of(size), channels, crop_area, flip, mixup, center, cutmix, randaugment, magnitude
    )
    files, held_out, source = _parts(Path(path).expanduser(), validation_fraction, examples)
    files, held_out, left_out = _usable(files, held_out, on_error, channels)
    classes = len(_class_folders(files.folder))
    checks.enough(len(files.paths), batch_size, str(files.folder), left_out.warning)
    return seekable(
        partial(_train, files, augmentation, classes, batch_size, seed, shuffle),
        _validation(held_out, augmentation, classes, batch_size),
        name=name,
        batch_size=batch_size,
        train_examples=len(files.paths),
        validation_examples=len(held_out.paths),
        shape=(*augmentation.size, channels),
        classes=classes,
        fingerprint=folders.fingerprint(_named(files), _named(held_out)),
        left_out=left_out,
        warnings=_others(files.others + held_out.others),
        validation_source=source,
        stall_seconds=stall_seconds,
        locate=partial(_locate, (files, held_out), channels),
        class_counts=partial(np.bincount, files.labels, minlength=classes),
        bounded=True,
    )


def _parts(path: Path, fraction: float | None, examples: int | None) -> tuple[Files, Files, str]:
    """The images to train on and those for validation, and where the latter come from."""
    folder, other = folders.parts_of(path)
    files = _listed(folder)
    rows = np.arange(len(files.labels))
    if other is not None and fraction is None:
        held_out = _listed(other, _class_folders(folder))
        return files.only(draw(files.labels, rows, examples)), held_out, other.name
    share = folders.HELD_OUT_SHARE if fraction is None else fraction
    train, validation, source = apart(files.labels, rows, examples, share)
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
            f"{folder.name} and {folders.TRAINING} have different classes: {', '.join(odd[:5])}",
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


def _usable(
    train: Files, held_out: Files, on_error: OnError, channels: int
) -> tuple[Files, Files, LeftOut]:
    """Both without what cannot be decoded, where that is to be left out, and what it is."""
    left_out = LeftOut()
    if on_error == "fail":
        _refuse_empty((train, held_out))
        return train, held_out, left_out
    train, held_out = (_decodable(part, left_out, channels) for part in (train, held_out))
    return train, held_out, left_out


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


def _named(files: Files) -> Iterator[tuple[str, Path]]:
    """Each image's name and class, and its file."""
    for row, path in enumerate(files.paths):
        yield f"{files.name(row)} {files.labels[row]}", Path(os.fsdecode(path))


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
) -> tf.data.Dataset | None:
    """Endless passes over the images in their order; None where there are none."""
    import tensorflow as tf

    if not len(files.paths):
        return None
    read, load = _read(files), validation(augmentation)

    def example(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content, label = read(row)
        return load(content), tf.one_hot(label, classes) if augmentation.mixes else label

    return finished(passes(tf.data.Dataset.range(len(files.paths)), example, batch_size))


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
