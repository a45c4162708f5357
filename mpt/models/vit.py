"""Vision transformers.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020; the sizes Ti and S are those of Touvron
et al., "Training data-efficient image transformers", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError
from mpt.models.blocks import check_dropout, check_width, stack, with_positions
from mpt.models.inputs import at_least_one, head, image_shape

if TYPE_CHECKING:
    import keras

POOLS = ("token", "mean")


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    outputs: int = 1,
    patch: int = 4,
    depth: int = 6,
    heads: int = 4,
    width: int = 128,
    dropout: float = 0.0,
    pool: str = "token",
    name: str = "vit",
) -> keras.Model:
    """Patches of an image as the words of a transformer.

    S/16 is patch 16, depth 12, heads 6, width 384: 22,050,664 parameters for 224x224x3 and 1,000
    classes. Ti/16 is heads 3, width 192 (5,717,416), B/16 heads 12, width 768 (86,567,656).

    Args:
        shape: of one example, (height, width, channels), both sides multiples of `patch`.
        classes: units of the softmax output; None makes a linear output of `outputs` units.
        patch: side of a patch, pixels.
        depth: number of blocks, each with so many `heads` of attention.
        width: of the embeddings, a multiple of `heads`.
        dropout: share of units dropped after the embeddings and of what each block adds, in [0, 1).
        pool: token adds one word, whose last state goes to the output layer; mean averages all.
        name: of the Keras model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, classes or outputs).

    Raises:
        ConfigurationError: a shape that patches do not cover, heads that do not divide the width.
    """
    import keras
    from keras import layers

    patch, depth = at_least_one(patch, "model.patch"), at_least_one(depth, "model.depth")
    sides = image_shape(shape, name, smallest=patch)
    _check(sides, patch, pool)
    check_width(width, heads)
    check_dropout(dropout)
    normal = partial(keras.initializers.TruncatedNormal, 0.0)
    image = keras.Input(sides, name="image")
    x = layers.Conv2D(width, patch, strides=patch, name="patch_embedding")(image)
    x = layers.Reshape((sides[0] // patch * (sides[1] // patch), width), name="patches")(x)
    if pool == "token":
        x = _with_token(x, normal(0.02))
    x = stack(
        with_positions(x, normal(0.02)),
        depth=depth,
        heads=heads,
        causal=False,
        approximate=False,
        dropout=dropout,
        epsilon=1e-6,
        initializers=lambda: ("glorot_uniform", "glorot_uniform"),
    )
    x = x[:, 0] if pool == "token" else layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(image, head(classes, outputs)(x), name=name)


def _check(sides: tuple[int, int, int], patch: int, pool: str) -> None:
    """ConfigurationError where patches do not cover the image, or there is no such pool."""
    if sides[0] % patch or sides[1] % patch:
        raise ConfigurationError(
            f"patches of {patch}x{patch} do not cover images of {sides[0]}x{sides[1]}",
            where="model.patch",
            value=patch,
            allowed=[n for n in range(1, 33) if sides[0] % n == sides[1] % n == 0],
        )
    if pool not in POOLS:
        raise ConfigurationError(
            f"there is no pool {pool!r}", where="model.pool", value=pool, allowed=POOLS
        )


def _with_token(words: Any, initializer: Any) -> Any:
    """`words` (batch, length, width) with a trained one before them."""
    from keras import layers, ops

    none = ops.zeros_like(words[:, :1, 0], dtype="int32")
    token = layers.Embedding(
        1, words.shape[-1], embeddings_initializer=initializer, name="class_embedding"
    )
    return layers.Concatenate(axis=1, name="words")([token(none), words])
