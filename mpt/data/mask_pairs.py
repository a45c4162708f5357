"""Pairs of an image and its mask: which there are, and which of them can be used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.data.left_out import LeftOut
from mpt.data.masks import Head, head_of, ids_of, shape_of
from mpt.data.pictures import SUFFIXES, decoded
from mpt.device import cores
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

IMAGES, MASKS = "images", "masks"
IDS = 2**16
"""Ids that a mask can hold."""


@dataclass(frozen=True)
class Pairs:
    """Images and their masks.

    Attributes:
        folder: that holds the folders `images` and `masks`.
        images, masks: names in these folders, one a row, in the order of the images' names.
        heads: of the masks.
    """

    folder: Path
    images: list[str]
    masks: list[str]
    heads: list[Head]

    def only(self, rows: Sequence[int] | np.ndarray) -> Pairs:
        images, masks, heads = self.images, self.masks, self.heads
        return Pairs(
            self.folder,
            [images[row] for row in rows],
            [masks[row] for row in rows],
            [heads[row] for row in rows],
        )

    def image(self, row: int) -> Path:
        return self.folder / IMAGES / self.images[row]

    def mask(self, row: int) -> Path:
        return self.folder / MASKS / self.masks[row]


class Unfit(Exception):
    """A pair that cannot be trained on.

    Args:
        file: that is to blame.
        what: it is or has, after its name.
        remedy: what to do about it.
    """

    def __init__(self, file: Path, what: str, remedy: str, allowed: Sequence[object] = ()):
        super().__init__(what)
        self.file, self.what, self.remedy, self.allowed = file, what, remedy, allowed

    def error(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.file.parent.name}/{self.file.name} {self.what}",
            where=str(self.file),
            allowed=self.allowed,
            remedy=self.remedy,
        )


def listed(folder: Path, left_out: LeftOut | None) -> tuple[Pairs, list[str]]:
    """The pairs in the folders of `folder`, and warnings."""
    for name in (IMAGES, MASKS):
        if not (folder / name).is_dir():
            raise ConfigurationError(
                f"{folder} has no folder {name}",
                where="dataset.path",
                remedy=f"put the images into {IMAGES}, and a mask of the same name for each into "
                f"{MASKS}",
            )
    images = _files(folder / IMAGES)
    # Of several files of one name the PNG, which is last: notes may lie beside it.
    files = sorted(_files(folder / MASKS), key=lambda name: Path(name).suffix.lower() == ".png")
    masks = {Path(name).stem: name for name in files}
    others = Counter(Path(name).suffix for name in images if not _is_image(name))
    images = [name for name in images if _is_image(name)]
    if not images:
        raise ConfigurationError(
            f"{folder / IMAGES} has no images", where="dataset.path", allowed=SUFFIXES
        )
    pairs = Pairs(folder, [], [], [])
    seen: dict[str, str] = {}
    for name in images:
        stem = Path(name).stem
        try:
            head = _head(folder, name, masks.get(stem), seen.setdefault(stem, name))
        except Unfit as unfit:
            _refuse(unfit, left_out)
            continue
        pairs.images.append(name)
        pairs.masks.append(masks[stem])
        pairs.heads.append(head)
    if left_out is not None:
        left_out.of += len(images)
    notes = []
    if others:
        named = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
        notes.append(f"{others.total()} files in {folder / IMAGES} are no images: {named}")
    if alone := sorted(set(masks) - set(seen)):
        notes.append(f"{len(alone)} masks in {folder} have no image: {masks[alone[0]]} first")
    return pairs, notes


def _files(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and os.path.isfile(entry.path)
        )


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _head(folder: Path, image: str, mask: str | None, first: str) -> Head:
    """The head of the mask of `image`; `first` is the first image of its stem."""
    file = folder / IMAGES / image
    if first != image:
        raise Unfit(file, f"has the same mask as {first}", "rename or remove one of them")
    if mask is None:
        stem = Path(image).stem
        raise Unfit(file, "has no mask", f"put its mask at {folder / MASKS / stem}.png")
    try:
        return head_of(folder / MASKS / mask)
    except ValueError as error:
        raise Unfit(
            folder / MASKS / mask,
            str(error),
            "save it as a PNG, grey or with a palette, whose pixels are the classes' ids",
        ) from None
    except OSError as error:
        raise Unfit(
            folder / MASKS / mask,
            f"cannot be read: {error.strerror or error}",
            "see to it that the file can be read",
        ) from None


def _refuse(unfit: Unfit, left_out: LeftOut | None) -> None:
    """Leave the pair out, where that is asked for; else raise."""
    if left_out is None:
        raise unfit.error()
    left_out.add(f"{unfit.file.parent.name}/{unfit.file.name} {unfit.what}")


def scanned(
    pairs: Pairs, classes: int | None, ignore: int | None, left_out: LeftOut | None
) -> tuple[Pairs, np.ndarray]:
    """The pairs that can be used, and how many pixels have each id: int64 (65536,).

    The masks are decoded, and the images' sizes are read; where pairs may be left out, the images
    are decoded, too.
    """
    kept: list[int] = []
    counts = np.zeros(IDS, np.int64)
    for row, found in _looked_at(pairs, whole=left_out is not None):
        try:
            _check(pairs, row, found, classes, ignore)
        except Unfit as unfit:
            _refuse(unfit, left_out)
            continue
        assert found is not None
        kept.append(row)
        counts[: len(found[1])] += found[1]
    return pairs.only(kept), counts


def _looked_at(pairs: Pairs, *, whole: bool) -> Iterator[tuple[int, Any]]:
    """Each row with its image's height and width and its mask's pixels of each id.

    None where they cannot be read.
    """
    import tensorflow as tf

    pair = read(pairs)
    with tf.device("CPU:0"):
        sides = tf.constant([[head.height, head.width] for head in pairs.heads], tf.int32)

    def look(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        content, ids = pair(row)
        shape = tf.shape(decoded(content, 3))[:2] if whole else shape_of(content)
        # Not a mask of another size: it may be a few bytes that are gigabytes when decoded.
        counts = tf.cond(
            tf.reduce_all(shape == sides[row]),
            lambda: tf.math.bincount(tf.reshape(ids(), [-1]), dtype=tf.int64),
            lambda: tf.zeros([0], tf.int64),
        )
        return row, shape, counts

    count, expected = len(pairs.images), 0
    rows = tf.data.Dataset.range(count)
    looked = rows.map(look, num_parallel_calls=cores(), deterministic=True).ignore_errors()
    for row, shape, counts in looked.as_numpy_iterator():
        yield from ((lost, None) for lost in range(expected, int(row)))
        yield int(row), (shape, counts)
        expected = int(row) + 1
    yield from ((lost, None) for lost in range(expected, count))


def _check(pairs: Pairs, row: int, found: Any, classes: int | None, ignore: int | None) -> None:
    """Raise Unfit where a pair cannot be used."""
    if found is None:
        raise _undecodable(pairs, row)
    (height, width), counts = found
    head, mask = pairs.heads[row], pairs.mask(row)
    if (height, width) != (head.height, head.width):
        raise Unfit(
            mask,
            f"has {head.height}x{head.width} pixels, its image {pairs.images[row]} "
            f"{height}x{width}",
            "give both the same size",
        )
    ids = np.flatnonzero(counts)
    beyond = [] if classes is None else ids[(ids >= classes) & (ids != ignore)]
    if len(beyond):
        ignored = [] if ignore is None else [f"{ignore} (ignored)"]
        raise Unfit(
            mask,
            f"has the id {beyond[-1]}, and there are {classes} classes",
            f"correct the mask, or set dataset.classes={beyond[-1] + 1} or dataset.ignore",
            [f"0 to {(classes or 0) - 1}", *ignored],
        )


def _undecodable(pairs: Pairs, row: int) -> Unfit:
    """What TensorFlow says of a pair that it cannot decode."""
    import tensorflow as tf

    from mpt.data.errors import words

    head, mask, image = pairs.heads[row], pairs.mask(row), pairs.image(row)
    remedy = "write the file again, or set dataset.on_error=skip to leave such pairs out"
    file = mask
    try:
        ids_of(tf.io.read_file(str(mask)), head.grey, head.start, head.unit)
        file = image
        decoded(tf.io.read_file(str(image)), 3)
    except tf.errors.OpError as error:
        return Unfit(file, f"cannot be decoded: {words(error)}", remedy)
    return Unfit(file, "could not be read before", remedy)


def read(pairs: Pairs) -> Any:
    """A function from a row to the image's bytes and a function that decodes the mask's ids."""
    import tensorflow as tf

    rows = range(len(pairs.images))
    with tf.device("CPU:0"):
        images = tf.constant([os.fsencode(pairs.image(row)) for row in rows], tf.string)
        masks = tf.constant([os.fsencode(pairs.mask(row)) for row in rows], tf.string)
        greys = tf.constant([head.grey for head in pairs.heads], tf.string)
        starts = tf.constant([head.start for head in pairs.heads], tf.int32)
        units = tf.constant([head.unit for head in pairs.heads], tf.int32)
    columns = (images, masks, greys, starts, units)

    def pair(row: tf.Tensor) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        image, mask, *head = (tf.gather(part, row) for part in columns)
        return tf.io.read_file(image), lambda: ids_of(tf.io.read_file(mask), *head)

    return pair


def locate(parts: Sequence[Pairs]) -> str | None:
    """The first pair that cannot be read; None where there is none."""
    for pairs in parts:
        for row, found in _looked_at(pairs, whole=True):
            if found is None:
                file = _undecodable(pairs, row).file
                return f"{file.parent.name}/{file.name} of {pairs.folder}"
    return None
