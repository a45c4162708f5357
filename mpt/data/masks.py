"""Masks: PNG files whose pixels are ids of classes, grey or with a palette.

TensorFlow turns a palette's indices, which are the ids, into colours. So the head of each file is
read here, and rewritten for a grey image of the same pixels: the ids come out as they are stored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mpt.data.pictures import (
    BEYOND_SEEDS,
    JPEG,
    Augmentation,
    central_window,
    decoded,
    random_window,
    resized,
    within,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
DEPTHS = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}
"""Bits of an id."""
COLOURS = {2: "colours (RGB)", 4: "a grey and a transparency", 6: "colours (RGBA)"}


@dataclass(frozen=True)
class Head:
    """What stands before the pixels of a mask.

    Attributes:
        grey: the bytes before those of the pixels in a grey image's file.
        start: byte of the mask's own file where the pixels begin.
        unit: of the 16-bit value that TensorFlow makes of an id, over the id.
        height, width: pixels.
    """

    grey: bytes
    start: int
    unit: int
    height: int
    width: int


def head_of(file: Path) -> Head:
    """The head of a mask.

    Raises:
        ValueError: with what the file is, if it is none.
    """
    with file.open("rb") as stream:
        if stream.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError("is no PNG file")
        kind, content = _chunk(stream)
        if kind != b"IHDR" or len(content) != 13:
            raise ValueError("is no whole PNG file")
        width, height, bits, colour = struct.unpack(">IIBB", content[:10])
        if colour not in (GREY, PALETTE):
            raise ValueError(f"holds {COLOURS.get(colour, 'no ids')}, not one id a pixel")
        if bits not in DEPTHS[colour]:
            raise ValueError(f"has pixels of {bits} bits, which no PNG file has")
        while kind != b"IDAT":
            start = stream.tell()
            kind, _ = _chunk(stream, skipped=True)
    changed = b"IHDR" + content[:9] + bytes([GREY]) + content[10:]
    grey = struct.pack(">I", 13) + changed + struct.pack(">I", zlib.crc32(changed))
    # Fewer bits than 16 are spread over 0 to 65,535, which all these numbers divide.
    return Head(SIGNATURE + grey, start, 65535 // (2**bits - 1), height, width)


def _chunk(stream: IO[bytes], *, skipped: bool = False) -> tuple[bytes, bytes]:
    """The kind and the content of the next chunk; of one that is skipped, b""."""
    begin = stream.read(8)
    if len(begin) < 8:
        raise ValueError("is no whole PNG file")
    length, kind = struct.unpack(">I4s", begin)
    if skipped:
        stream.seek(length + 4, 1)
        return kind, b""
    content = stream.read(length)
    stream.seek(4, 1)
    return kind, content


def ids_of(content: Any, grey: Any, start: Any, unit: Any) -> Any:
    """The ids in a mask's bytes: int32 (height, width, 1). The others are of its `Head`."""
    import tensorflow as tf

    pixels = tf.strings.substr(content, start, tf.strings.length(content) - start)
    image = tf.io.decode_png(grey + pixels, channels=1, dtype=tf.uint16)
    return tf.cast(image, tf.int32) // unit


def shape_of(content: Any) -> Any:
    """Height and width of an image, int64 (2,), in its bytes; only of other than JPEG and PNG
    files are the pixels decoded."""
    import tensorflow as tf

    def of_png() -> Any:
        sides = tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.int32, little_endian=False)
        return tf.reverse(sides[:2], [0])

    def of_other() -> Any:
        return tf.shape(decoded(content, 3))[:2]

    def begins(with_: bytes) -> Any:
        return tf.equal(tf.strings.substr(content, 0, len(with_)), with_)

    return tf.cond(
        begins(JPEG),
        lambda: tf.io.extract_jpeg_shape(content)[:2],
        lambda: tf.cond(begins(SIGNATURE), of_png, of_other),
    )


def joint(
    augmentation: Augmentation, ignore: int | None, *, training: bool
) -> Callable[..., tuple[Any, ...]]:
    """A function that crops, resizes and mirrors an image and its mask alike.

    It takes an image's bytes, ids int32 (height, width, 1), and an int64 seed (2,), and gives x
    float32 in [0, 1], y int32 (height, width), and, where ids may be ignored, their weights
    float32: 0 where the id is `ignore`, whose label is then 0, else 1. An id is that of the nearest
    pixel: none are mixed.

    Args:
        training: crop and mirror at random; else the seed has no use.
    """
    import tensorflow as tf

    def load(content: Any, ids: Any, seed: Any) -> tuple[Any, ...]:
        if training and augmentation.area is not None:
            window = random_window(tf.shape(ids), seed, augmentation)
        else:
            window = central_window(tf.shape(ids), augmentation)
        x = resized(within(decoded(content, augmentation.channels), window), augmentation)
        y = tf.image.resize(within(ids, window), augmentation.size, method="nearest")
        y = tf.reshape(y, augmentation.size)
        if training and augmentation.flip:
            coin = tf.random.stateless_uniform([], seed + np.array([BEYOND_SEEDS, 0])) < 0.5
            x = tf.where(coin, tf.reverse(x, [1]), x)
            y = tf.where(coin, tf.reverse(y, [1]), y)
        if ignore is None:
            return x, y
        counts = tf.not_equal(y, ignore)
        return x, tf.where(counts, y, 0), tf.cast(counts, tf.float32)

    return load
