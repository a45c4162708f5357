"""Data sources, one module each, with `build(*, batch_size, seed, ...) -> Data`.

TensorFlow is imported inside the functions: a wrong path or label is reported without it.

Arguments that mean the same at every source, unless it says more of one:
    batch_size: rows in a training batch.
    seed: of the order; what the examples are, and which of them validate, is the same for every
        seed.
    validation_fraction: share of the rows for validation, drawn by class where y is a class.
    shuffle: a new order for each epoch; False keeps the rows' own.
    examples: draw only so many rows, each class in its share, before the split; None takes all.
    name: of the dataset.
    on_error: fail refuses broken rows; skip leaves them out and counts them.
    stall_seconds: a batch that takes longer to come is taken for one that never will.

And what sources of images take, as `mpt.data.pictures.Augmentation` has it: size (pixels: of both
sides, or (height, width)), channels, crop_area, flip, mixup, cutmix, randaugment, magnitude and
center. What is random of a training image, and of the mixtures, follows from the seed and its place
in training, so that a run can be repeated and gone on with.

Every source raises ConfigurationError where its arguments or its rows are not as they say.
"""

from mpt.data.examples import Data

__all__ = ["Data"]
