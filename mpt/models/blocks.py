"""The block that transformers are made of, with its norms ahead of what they serve ("pre-norm").

Vaswani et al., "Attention Is All You Need", 2017; Radford et al., "Language Models are Unsupervised
Multitask Learners", 2019, section 2.3, for the place of the norms. It is made of Keras's own layers
and operations alone, so that a saved model needs no code of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpt.errors import ConfigurationError

HIDDEN = 4
"""Width of the feed-forward layer, over the model's."""


def check_width(width: int, heads: int) -> None:
    """Raise ConfigurationError where `heads` of one size do not make up `width`."""
    for key, value in (("width", width), ("heads", heads)):
        if value < 1:
            raise ConfigurationError(
                f"{value} is below 1", where=f"model.{key}", allowed=["1 or more"]
            )
    if width % heads:
        raise ConfigurationError(
            f"{heads} heads of the same size do not make up a width of {width}",
            where="model.heads",
            value=heads,
            allowed=[n for n in range(1, min(width, 64) + 1) if width % n == 0],
        )


def check_dropout(dropout: float) -> None:
    """Raise ConfigurationError where `dropout` is no share."""
    if not 0 <= dropout < 1:
        raise ConfigurationError(
            f"{dropout} is not a share of units to drop", where="model.dropout", allowed=["[0, 1)"]
        )


def stack(
    x: Any,
    *,
    depth: int,
    dropout: float,
    epsilon: float,
    initializers: Callable[[], tuple[Any, Any]],
    **others: Any,
) -> Any:
    """The embeddings' dropout, `depth` blocks, and a norm of what comes out of them.

    Args:
        x: (batch, length, width), the embeddings.
        depth: number of blocks, named block1 and so on.
        dropout: share of units dropped of `x`, and of what each block adds.
        epsilon: of all norms.
        initializers: makes those of a block's kernels, `initializer` and `last_initializer`.
        **others: of `block`.

    Returns:
        (batch, length, width).
    """
    from keras import layers

    if dropout:
        x = layers.Dropout(dropout, name="embedding_dropout")(x)
    for index in range(1, depth + 1):
        initializer, last_initializer = initializers()
        x = block(
            x,
            dropout=dropout,
            epsilon=epsilon,
            initializer=initializer,
            last_initializer=last_initializer,
            path=f"block{index}",
            **others,
        )
    return layers.LayerNormalization(epsilon=epsilon, name="norm")(x)


def block(
    x: Any,
    *,
    heads: int,
    causal: bool,
    approximate: bool,
    dropout: float,
    epsilon: float,
    initializer: Any,
    last_initializer: Any,
    path: str,
) -> Any:
    """Attention, then a feed-forward pair, each added to what came in.

    Args:
        x: (batch, length, width).
        heads: of the attention, of width/heads units each.
        causal: whether a place sees only itself and the places before it.
        approximate: whether the GELU between the feed-forward pair is the one by tanh.
        dropout: share of units dropped of what is added.
        epsilon: of the norms.
        initializer: of the kernels.
        last_initializer: of the kernels of the layers whose output is added.
        path: prefix of the layers' names.

    Returns:
        (batch, length, width).
    """
    from keras import layers, ops

    def dense(units: int, name: str, kernel: Any) -> Any:
        return layers.Dense(units, kernel_initializer=kernel, name=f"{path}_{name}")

    def joined(x: Any, y: Any, name: str) -> Any:
        if dropout:
            y = layers.Dropout(dropout, name=f"{path}_{name}_dropout")(y)
        return layers.Add(name=f"{path}_{name}_add")([x, y])

    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=epsilon, name=f"{path}_attention_norm")(x)
    y = attention(
        dense(3 * width, "attention_qkv", initializer)(y), heads, causal, f"{path}_attention"
    )
    x = joined(x, dense(width, "attention_out", last_initializer)(y), "attention")
    y = layers.LayerNormalization(epsilon=epsilon, name=f"{path}_feed_norm")(x)
    y = ops.gelu(dense(HIDDEN * width, "feed_in", initializer)(y), approximate=approximate)
    return joined(x, dense(width, "feed_out", last_initializer)(y), "feed")


def attention(qkv: Any, heads: int, causal: bool, path: str) -> Any:
    """softmax(QK^T / sqrt(size)) V of queries, keys and values that lie side by side.

    The queries are scaled ahead of the product, which ends in the compute dtype: unscaled, queries
    and keys of 40 overflow float16 at a size of 64. The softmax is in float32 at the least.

    Args:
        qkv: (batch, length, 3 * width).

    Returns:
        (batch, length, width), in the dtype of `qkv`.
    """
    from keras import layers, ops

    length, width = qkv.shape[1], qkv.shape[2] // 3
    size = width // heads
    q, k, v = (
        layers.Reshape((length, heads, size), name=f"{path}_{name}")(part)
        for name, part in zip("qkv", ops.split(qkv, 3, axis=-1), strict=True)
    )
    mixed = ops.dot_product_attention(q * size**-0.5, k, v, scale=1.0, is_causal=causal)
    return layers.Reshape((length, width), name=f"{path}_joined")(mixed)


def with_positions(x: Any, initializer: Any, name: str = "position_embedding") -> Any:
    """`x` (batch, length, width), plus a learned vector for each place."""
    from keras import layers, ops

    places = ops.cumsum(ops.ones_like(x[:1, :, 0], dtype="int32"), axis=1) - 1
    embedding = layers.Embedding(
        x.shape[1], x.shape[2], embeddings_initializer=initializer, name=name
    )
    return layers.Add(name=f"{name}_add")([x, embedding(places)])
