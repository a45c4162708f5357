"""Training images mixed with one another, and their labels in the same shares.

mixup is H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017; CutMix is Yun et al.,
"CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019. What
is drawn for a batch is a function of the seed and the batch's number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpt.data.pictures import Augmentation, other_seed
from mpt.data.pipeline import ENDLESS

if TYPE_CHECKING:
    import tensorflow as tf

CUTMIX_SHARE = 0.5
"""Of the batches, where both are asked for; as timm has it."""


def with_mixtures(
    dataset: tf.data.Dataset, augmentation: Augmentation, classes: int, seed: int, position: int
) -> tf.data.Dataset:
    """Batches (x, y) mixed with their own reverse, where that is asked for; else as they are.

    y becomes float32 (batch, classes). The mixtures of a batch share one weight, and one box.

    Args:
        dataset: batches from number `position` on; x float32 (batch, height, width, channels),
            y int32 (batch,).
        augmentation: of which `mixup` and `cutmix` are looked at.
        classes: of y.
        seed: of the weights, the boxes and the choice between the two, with the batch's number.
        position: of the first batch.
    """
    import tensorflow as tf

    if not augmentation.mixes:
        return dataset

    def mix(number: tf.Tensor, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        x, y = batch
        y = tf.one_hot(y, classes)
        # Numbers below 0, which no example's crop has.
        key = tf.stack([tf.constant(seed, tf.int64), -1 - number])

        def mixup() -> tuple[tf.Tensor, tf.Tensor]:
            return mixed(x, y, _weight(key, augmentation.mixup))

        def cutmix() -> tuple[tf.Tensor, tf.Tensor]:
            return cut(x, y, _weight(key, augmentation.cutmix), _centre(key, augmentation.size))

        if not augmentation.cutmix:
            return mixup()
        if not augmentation.mixup:
            return cutmix()
        choice = tf.random.stateless_uniform([], other_seed(key, 2))
        return tf.cond(choice < CUTMIX_SHARE, cutmix, mixup)

    numbers = tf.data.Dataset.range(position, ENDLESS)
    return tf.data.Dataset.zip((numbers, dataset)).map(mix)


def mixed(x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x (batch, ...) and y (batch, classes) in the share `weight`, the rest from their reverse."""
    import tensorflow as tf

    return (
        weight * x + (1 - weight) * tf.reverse(x, [0]),
        weight * y + (1 - weight) * tf.reverse(y, [0]),
    )


def cut(
    x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor, centre: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """x with a box from its reverse, and y with the box's share of its reverse.

    Args:
        x: (batch, height, width, channels), of known height and width.
        y: (batch, classes).
        weight: what the box leaves of the area, if it lies in the image; else it leaves more.
        centre: of the box: int32 row and column.
    """
    import tensorflow as tf

    height, width = x.shape[1:3]
    sides = tf.cast([height, width], tf.float32)
    half = tf.cast(tf.sqrt(1 - weight) * sides, tf.int32) // 2
    first = tf.clip_by_value(centre - half, 0, [height, width])
    last = tf.clip_by_value(centre + half, 0, [height, width])
    (top, left), (bottom, right) = tf.unstack(first), tf.unstack(last)
    rows = x[:, top:bottom]
    box = tf.reverse(rows[:, :, left:right], [0])
    rows = tf.concat([rows[:, :, :left], box, rows[:, :, right:]], 2)
    x = tf.ensure_shape(tf.concat([x[:, :top], rows, x[:, bottom:]], 1), x.shape)
    share = tf.cast(tf.reduce_prod(last - first), tf.float32) / (height * width)
    return x, (1 - share) * y + share * tf.reverse(y, [0])


def _weight(key: tf.Tensor, alpha: float) -> tf.Tensor:
    """Drawn from Beta(alpha, alpha)."""
    import tensorflow as tf

    pair = tf.random.stateless_gamma([2], key, alpha)
    return pair[0] / tf.maximum(tf.reduce_sum(pair), 1e-30)


def _centre(key: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """A row and a column of an image: int32 (2,)."""
    import tensorflow as tf

    return tf.cast(tf.random.stateless_uniform([2], other_seed(key, 1)) * size, tf.int32)
