"""Generated examples with something to learn in them, of any shape and size, held in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpt.data.examples import STALL_SECONDS, Data, Examples
from mpt.data.left_out import OnError
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError

CELLS = 4
"""Cells along each axis in which a class's pattern is constant."""

FOLLOWED = 0.9
"""Share of the tokens that follow from the token before; the rest is drawn at random."""

LARGEST_BYTES = 16 * 2**30
CONTENT_SEED = 0


def build(
    *,
    batch_size: int,
    seed: int,
    validation_fraction: float = 0.2,
    shuffle: bool = True,
    shape: Sequence[int] = (28, 28, 1),
    classes: int | None = 10,
    examples: int = 2048,
    vocabulary: int | None = None,
    length: int | None = None,
    outputs: int = 1,
    name: str = "synthetic",
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """Classes, a regression, or token sequences.

    Classes: x float32 `shape` is the class's pattern, coarse cells of standard normal height, plus
    standard normal noise; y int32. Regression (`classes` null): x is standard normal, y float32
    (outputs,) a linear function of x of variance 1, plus noise of standard deviation 0.1. Tokens
    (`vocabulary` and `length`): x int32 (length,), y int32 (length,) the next token at each place,
    which at 9 of 10 places is a fixed function of the token before.

    Args:
        examples: rows to generate, before the split.
        vocabulary: number of tokens; they are also the classes. `shape` has no use for them.

    Raises:
        ConfigurationError: sizes below 1, above 16 GiB in all, or half of a token description.
    """
    if (vocabulary is None) != (length is None):
        raise ConfigurationError(
            "tokens need both a vocabulary and a length",
            where="dataset.length" if length is None else "dataset.vocabulary",
            remedy="set both, or neither",
        )
    random = np.random.default_rng(CONTENT_SEED)
    _size({"examples": examples}, 1)
    if vocabulary is not None and length is not None:
        _size({"vocabulary": vocabulary, "length": length}, examples * 2)
        x, y = _tokens(random, examples, vocabulary, length)
        classes = vocabulary
    elif classes is not None:
        _size({"classes": classes, **_axes(shape)}, examples)
        x, y = _classes(random, examples, shape, classes)
    else:
        _size({"outputs": outputs, **_axes(shape)}, examples)
        x, y = _regression(random, examples, shape, outputs)
    return from_arrays(
        Examples(x, y, name),
        name=name,
        batch_size=batch_size,
        seed=seed,
        validation_fraction=validation_fraction,
        shuffle=shuffle,
        classes=classes,
        on_error=on_error,
        stall_seconds=stall_seconds,
    )


def _axes(shape: Sequence[int]) -> dict[str, int]:
    return {f"shape[{axis}]": size for axis, size in enumerate(shape)}


def _size(sizes: dict[str, int], examples: int) -> None:
    for key, value in sizes.items():
        if value < 1:
            raise ConfigurationError(
                f"{value} is below 1", where=f"dataset.{key}", allowed=["1 or more"]
            )
    axes = [size for key, size in sizes.items() if key.startswith("shape[") or key == "length"]
    total = 4 * examples * int(np.prod(axes, dtype=object))
    if total > LARGEST_BYTES:
        raise ConfigurationError(
            f"the examples would take {total / 2**30:.1f} GiB of memory, over 16",
            where="dataset.examples",
            remedy="take fewer examples or a smaller shape",
        )


def _classes(
    random: np.random.Generator, examples: int, shape: Sequence[int], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    y = (np.arange(examples) % classes).astype(np.int32)
    random.shuffle(y)
    cells = [min(size, CELLS) for size in shape]
    patterns = random.standard_normal((classes, *cells), dtype=np.float32)
    for axis, (size, count) in enumerate(zip(shape, cells, strict=True), start=1):
        patterns = np.take(patterns, np.arange(size) * count // size, axis=axis)
    x = random.standard_normal((examples, *shape), dtype=np.float32)
    for row, label in enumerate(y):
        x[row] += patterns[label]
    return x, y


def _regression(
    random: np.random.Generator, examples: int, shape: Sequence[int], outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    x = random.standard_normal((examples, *shape), dtype=np.float32)
    flat = x.reshape(examples, -1)
    weights = random.standard_normal((flat.shape[1], outputs), dtype=np.float32)
    noise = random.standard_normal((examples, outputs), dtype=np.float32)
    return x, flat @ weights / np.float32(np.sqrt(flat.shape[1])) + np.float32(0.1) * noise


def _tokens(
    random: np.random.Generator, examples: int, vocabulary: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    successor = random.permutation(vocabulary).astype(np.int32)
    tokens = random.integers(0, vocabulary, (examples, length + 1), dtype=np.int32)
    follows = random.random((examples, length)) < FOLLOWED
    for place in range(length):
        tokens[:, place + 1] = np.where(
            follows[:, place], successor[tokens[:, place]], tokens[:, place + 1]
        )
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()
