"""A decoder-only transformer as GPT-2 is one.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. The embedding of the
tokens is the output layer's kernel, too (Press and Wolf, "Using the Output Embedding to Improve
Language Models", 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mpt.errors import ConfigurationError
from mpt.models.blocks import check_dropout, check_width, stack, with_positions
from mpt.models.inputs import at_least_one

if TYPE_CHECKING:
    import keras

SPREAD = 0.02
"""Standard deviation of the kernels and embeddings at the start."""


def build(
    *,
    shape: Sequence[int],
    classes: int | None,
    depth: int = 4,
    heads: int = 4,
    width: int = 128,
    dropout: float = 0.0,
    pad_vocabulary: int = 64,
    name: str = "gpt",
) -> keras.Model:
    """A model of the next token at each place.

    GPT-2 small is depth 12, heads 12, width 768 on 1024 tokens of a vocabulary of 50,257:
    124,439,808 parameters, and with the vocabulary padded to 50,304 rows 124,475,904.

    The product with the embedding is in float32, or for `precision.head=policy` in its dtype.

    Args:
        shape: of one example, (length,) token ids.
        classes: size of the vocabulary.
        depth: number of blocks, each with so many `heads` of attention.
        width: of the embeddings, a multiple of `heads`.
        dropout: share of units dropped of the embeddings and of what each block adds, in [0, 1).
        pad_vocabulary: fill the vocabulary up to a multiple of this, on which tensor cores are
            faster, by tokens that never occur; 1 leaves it.
        name: of the Keras model.

    Returns:
        A functional model from int32 (batch, length) to logits (batch, length, padded vocabulary).

    Raises:
        ConfigurationError: examples that are not tokens, heads that do not divide the width.
    """
    import keras
    from keras import layers

    vocabulary = _vocabulary(shape, classes, name)
    check_width(width, heads)
    check_dropout(dropout)
    depth = at_least_one(depth, "model.depth")
    rows = -(-vocabulary // at_least_one(pad_vocabulary, "model.pad_vocabulary")) * pad_vocabulary
    normal = partial(keras.initializers.RandomNormal, 0.0)
    tokens = keras.Input((int(shape[0]),), dtype="int32", name="tokens")
    embedding = layers.ReversibleEmbedding(
        rows, width, embeddings_initializer=normal(SPREAD), name="token_embedding"
    )
    x = stack(
        with_positions(embedding(tokens), normal(SPREAD)),
        depth=depth,
        heads=heads,
        causal=True,
        approximate=True,
        dropout=dropout,
        epsilon=1e-5,
        # So that the sum of what the blocks add keeps its spread, however many there are.
        initializers=lambda: (normal(SPREAD), normal(SPREAD / (2 * depth) ** 0.5)),
    )
    logits = embedding(x, reverse=True)
    return keras.Model(tokens, layers.Activation("linear", name="head")(logits), name=name)


def _vocabulary(shape: Sequence[int], classes: int | None, name: str) -> int:
    """The size of the vocabulary. ConfigurationError where the examples are no tokens."""
    if len(shape) != 1 or classes is None:
        raise ConfigurationError(
            f"model {name!r} takes sequences of token ids (length,) and predicts tokens; the data "
            f"has examples of shape {tuple(shape)} and "
            + ("no classes" if classes is None else f"{classes} classes"),
            where="model",
            remedy="take a dataset of tokens, as dataset.vocabulary=256 dataset.length=128 of "
            "dataset=synthetic",
        )
    return classes
