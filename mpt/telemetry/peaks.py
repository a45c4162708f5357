"""Ceilings of a device, as TensorFlow reaches them: products, convolutions, memory, by dtype.

Each is the fastest of a few repetitions at the size that suits the device best, so that what a step
reaches is a share of it below 1, but for noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mpt.tuning_cache import TuningCache

SMALLEST, LARGEST = 128, 8192  # sides of the products that are timed
LONG = 0.01  # s; what goes by around work that takes longer does not matter
CHAIN = 16  # shorter ones are timed so many at once: on an H100 the largest takes 1.4 ms
REPEATS = 4
IMAGES = ((56, 64), (28, 128), (14, 256))  # height and width, channels: of ResNet-50's stages
KERNEL = 3
FEWEST, MOST = 4, 512  # images of a convolution
SMALL, LARGE = 2**25, 2**30  # bytes of an array, above what caches hold


def matmul_peak(dtype: str) -> float | None:
    """Highest rate of a square matrix product on the default device, FLOP/s.

    Sizes double until one product takes 10 ms (or 8192 is reached); the fastest of four
    repetitions counts. None where `dtype` has no matrix product there.
    """

    def peak(kind: tf.DType) -> float:
        product = _chained(tf.linalg.matmul)
        # Neither equal numbers, with which a GPU is faster, nor such as overflow in a chain.
        return _highest(
            SMALLEST,
            LARGEST,
            lambda size: 2.0 * size**3,
            lambda size: _shortest(product, _noise((size, size), size**-0.5, kind)),
        )

    return _or_none(peak, dtype)


def known_matmul_peak(dtype: str, cache: TuningCache, *, tf32: bool = False) -> float | None:
    """The same, as it was measured on this machine before; else measured now, for later.

    Args:
        tf32: float32 products may use TensorFloat-32.
    """
    kept = (cache.get(**_subject(dtype, tf32)) or {}).get("flops_per_second")
    if isinstance(kept, float) and 0.0 < kept < float("inf"):
        return kept
    peak = matmul_peak(dtype)
    keep_matmul_peak(peak, dtype, cache, tf32=tf32)
    return peak


def keep_matmul_peak(
    peak: float | None, dtype: str, cache: TuningCache, *, tf32: bool = False
) -> None:
    """For `known_matmul_peak` of later processes; a dtype without one is looked at each time."""
    if peak is not None:
        cache.put({"flops_per_second": peak}, **_subject(dtype, tf32))


def _subject(dtype: str, tf32: bool) -> dict[str, Any]:
    return {"what": "matrix product", "dtype": dtype, "tf32": tf32 and dtype == "float32"}


def convolution_peak(dtype: str) -> float | None:
    """Highest rate of a 3x3 convolution from and to as many channels, NHWC, FLOP/s.

    Of the sizes of `IMAGES` the best counts, with so many images that it takes 10 ms. None where
    `dtype` has no convolution.
    """

    def peak(kind: tf.DType) -> float:
        return max(_convolution(side, channels, kind) for side, channels in IMAGES)

    return _or_none(peak, dtype)


def _convolution(side: int, channels: int, kind: tf.DType) -> float:
    # A step's spread stays as it is, so that a chain of them neither overflows nor vanishes.
    kernel = _noise(
        (KERNEL, KERNEL, channels, channels), (KERNEL * KERNEL * channels) ** -0.5, kind
    )
    convolve = _chained(lambda _, last: tf.nn.conv2d(last, kernel, 1, "SAME"))
    return _highest(
        FEWEST,
        MOST,
        lambda images: 2.0 * images * side * side * channels * channels * KERNEL * KERNEL,
        lambda images: _shortest(convolve, _noise((images, side, side, channels), 1.0, kind)),
    )


def bandwidth(dtype: str) -> float | None:
    """Highest rate at which adding two arrays reads and writes memory, bytes/s.

    The arrays double from 32 MiB until one addition takes 10 ms, or they have 1 GiB. None where
    `dtype` has no addition.
    """

    def peak(kind: tf.DType) -> float:
        add = _chained(lambda a, last: a + last)
        return _highest(
            SMALL,
            LARGE,
            lambda nbytes: 3.0 * nbytes,
            lambda nbytes: _shortest(add, _noise((nbytes // kind.size,), 1.0, kind)),
        )

    return _or_none(peak, dtype)


def _highest(
    first: int, last: int, work: Callable[[int], float], seconds: Callable[[int], float]
) -> float:
    """The most `work` a second, at sizes that double from `first` until one is long, or `last`."""
    best, size, shortest = 0.0, first, 0.0
    while size <= last and shortest < LONG:
        shortest = seconds(size)
        best = max(best, work(size) / shortest)
        size *= 2
    return best


def _or_none(peak: Callable[[tf.DType], float], dtype: str) -> float | None:
    try:
        return peak(tf.as_dtype(dtype))
    except (tf.errors.OpError, TypeError, ValueError):
        return None


def _noise(shape: tuple[int, ...], spread: float, kind: tf.DType) -> tf.Tensor:
    return tf.cast(tf.random.stateless_normal(shape, seed=(0, shape[0]), stddev=spread), kind)


def _chained(work: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A function that does `work(a, last)` so many times, each on what the one before it gave."""

    @tf.function(reduce_retracing=True)
    def chain(a: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        last = a
        for _ in tf.range(count):
            last = work(a, last)
        return tf.reshape(last, [-1])[0]  # one number of the last is brought to the host

    return chain


def _shortest(chain: Callable[..., tf.Tensor], a: tf.Tensor) -> float:
    """s of one piece of work: the least of four timings."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        chain(a, tf.constant(count)).numpy()
        return time.perf_counter() - start

    seconds(1)
    count = CHAIN if seconds(1) < LONG else 1
    return min(seconds(count) for _ in range(REPEATS)) / count
