"""The user's own function that returns tf.data.Datasets."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.pipeline import Data

SHUFFLE_BUFFER = 10_000


def build(
    *,
    function: Callable[..., Any],
    batch_size: int,
    seed: int,
    kwargs: Mapping[str, Any] | None = None,
    validation_fraction: float | None = None,
    shuffle: bool = False,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    examples: int | None = None,
    batched: bool | None = None,
    name: str = "python",
) -> Data:
    """What `function(**kwargs)` returns: a training dataset, or (training, validation).

    Elements are (x, y) or (x, y, sample_weight); x and y may be structures. They reach the model
    with the values and dtypes that the function gave them. The order is as deterministic as the
    function makes it. A dataset of unknown length is read through once to count it, and so is one
    of integer labels where `classes` is null, to find the largest.

    Args:
        function: also given `batch_size`, `seed`, `shape` and `classes` where it takes them by
            name and `kwargs` does not have them.
        batch_size: rows in a training batch.
        seed: of `shuffle`.
        kwargs: arguments of the function.
        validation_fraction: must be null or 0: a dataset cannot be split without knowing whether
            it comes in the same order again, so the function returns the validation part.
        shuffle: shuffle training examples in a buffer of 10,000, anew in each epoch.
        shape: of x without the batch; must fit the dataset where it is given.
        classes: labels are in [0, classes).
        examples: of an epoch; required where the dataset has no end, else at most so many.
        batched: whether the datasets are of batches already (of any size, they are cut again);
            null: they are where the function takes `batch_size`.
        name: of the dataset.

    Raises:
        ConfigurationError: arguments that do not fit, a result that is no such dataset, no
            examples, a dataset without end and without `examples`, fewer examples than a batch.
    """
    from mpt.data import checks
    from mpt.data.pipeline import Data, finished

    checks.batch(batch_size)
    if validation_fraction:
        raise ConfigurationError(
            "a dataset from Python cannot be split",
            where="dataset.validation_fraction",
            allowed=["null", 0],
            remedy="return (training, validation) from the function",
        )
    offered = {"batch_size": batch_size, "seed": seed, "shape": shape, "classes": classes}
    if batched is None:
        batched = "batch_size" in inspect.signature(function).parameters
    train, validation = _call(function, dict(kwargs or {}), offered)
    train = _rows(train, batched, "training")
    train_examples = _count(train, batched, examples, "training")
    if examples is not None:
        train_examples = min(train_examples, examples)
    checks.enough(train_examples, batch_size, "the function's training dataset")
    if classes is None:
        classes = _classes(train, batched, train_examples)
    if validation is not None:
        validation = _rows(validation, batched, "validation")
        validation_examples = _count(validation, batched, None, "validation")
        # An empty last pass would repeat without end.
        checks.enough(validation_examples, 1, "the function's validation dataset")
        validation = finished(_cut(validation, batched, batch_size, False).repeat())
    else:
        validation_examples = 0
    epoch = _epoch(train, batched, batch_size, train_examples, seed if shuffle else None)
    endless = finished(epoch.repeat())
    spec = endless.element_spec
    return Data(
        name=name,
        train=endless,
        validation=validation,
        validation_batches=-(-validation_examples // batch_size),
        steps_per_epoch=train_examples // batch_size,
        train_examples=train_examples,
        validation_examples=validation_examples,
        shape=_shape(spec[0], shape),
        classes=classes,
        element_spec=spec,
        fingerprint=hashlib.sha256(
            f"{function.__module__}:{function.__qualname__} {sorted((kwargs or {}).items())} "
            f"{spec} {train_examples} {validation_examples}".encode()
        ).hexdigest(),
        validation_source="the function's validation dataset" if validation_examples else "none",
    )


def _call(
    function: Callable[..., Any], arguments: dict[str, Any], offered: Mapping[str, Any]
) -> tuple[tf.data.Dataset, tf.data.Dataset | None]:
    import tensorflow as tf

    signature = inspect.signature(function)
    for key, value in offered.items():
        if key in signature.parameters:
            arguments.setdefault(key, value)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ConfigurationError(
            f"{function.__qualname__}{signature} cannot be called: {error}",
            where="dataset.kwargs",
            allowed=list(signature.parameters),
        ) from None
    result = function(**arguments)
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if not 1 <= len(parts) <= 2 or not all(isinstance(p, tf.data.Dataset) for p in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ConfigurationError(
            f"{function.__qualname__} returned {kinds}",
            where="dataset.function",
            allowed=["a tf.data.Dataset", "(training, validation)"],
        )
    return parts[0], parts[1] if len(parts) == 2 else None


def _rows(dataset: tf.data.Dataset, batched: bool, role: str) -> tf.data.Dataset:
    """`dataset`, where its elements are (x, y[, sample_weight]) of known ranks."""
    import tensorflow as tf

    spec = dataset.element_spec
    if not isinstance(spec, tuple) or not 2 <= len(spec) <= 3:
        raise ConfigurationError(
            f"elements of the {role} dataset are {spec}",
            where="dataset.function",
            allowed=["(x, y)", "(x, y, sample_weight)"],
        )
    for part in tf.nest.flatten(spec):
        if part.shape.rank is None or (batched and part.shape.rank == 0):
            raise ConfigurationError(
                f"the {role} dataset has a part of shape {part.shape}",
                where="dataset.function",
                remedy="set its shape (ensure_shape); if these are single examples, not batches, "
                "set dataset.batched=false",
            )
    return dataset


def _count(dataset: tf.data.Dataset, batched: bool, given: int | None, role: str) -> int:
    """Examples in `dataset`, by its cardinality where that says it, else by reading it."""
    import tensorflow as tf

    length = int(dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        if given is None:
            raise ConfigurationError(
                f"the {role} dataset has no end",
                where="dataset.examples" if role == "training" else "dataset.function",
                remedy="set dataset.examples to the length of an epoch"
                if role == "training"
                else "end it by .take(n)",
            )
        return given
    if not batched:
        if length >= 0:
            return length
        return int(dataset.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
    rows = tf.nest.flatten(dataset.element_spec)[0].shape[0]
    if length >= 0 and rows is not None:
        return length * rows
    return int(
        dataset.reduce(
            tf.constant(0, tf.int64),
            lambda count, batch: count + tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0],
        )
    )


def _classes(dataset: tf.data.Dataset, batched: bool, examples: int) -> int | None:
    """The largest label plus one, where labels are one tensor of integers."""
    import tensorflow as tf

    y = dataset.element_spec[1]
    if not isinstance(y, tf.TensorSpec) or not y.dtype.is_integer:
        return None
    if not batched:
        dataset = dataset.take(examples)
    elif int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        dataset = dataset.take(examples // max(1, y.shape[0] or 1))
    lowest, highest = dataset.reduce(
        (tf.constant(0, tf.int64), tf.constant(0, tf.int64)),
        lambda range_, row: (
            tf.minimum(range_[0], tf.reduce_min(tf.cast(row[1], tf.int64))),
            tf.maximum(range_[1], tf.reduce_max(tf.cast(row[1], tf.int64))),
        ),
    )
    if int(lowest) < 0:
        raise ConfigurationError(
            f"the training dataset has the label {int(lowest)}; classes are counted from 0",
            where="dataset.function",
            remedy="correct the labels, or make them floats for a regression",
        )
    return int(highest) + 1


def _cut(dataset: tf.data.Dataset, batched: bool, batch_size: int, drop: bool) -> tf.data.Dataset:
    """`dataset` in batches of `batch_size`."""
    import tensorflow as tf

    if not batched:
        return dataset.batch(batch_size, drop_remainder=drop)
    if all(part.shape[0] == batch_size for part in tf.nest.flatten(dataset.element_spec)):
        return dataset
    return dataset.rebatch(batch_size, drop_remainder=drop)


def _epoch(
    dataset: tf.data.Dataset, batched: bool, batch_size: int, examples: int, seed: int | None
) -> tf.data.Dataset:
    """One pass in full batches; shuffled by `seed` where it is one."""
    if seed is not None:
        if batched:
            dataset, batched = dataset.unbatch(), False
        dataset = dataset.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=True)
    return _cut(dataset, batched, batch_size, True).take(examples // batch_size)


def _shape(spec: Any, given: Sequence[int] | None) -> tuple[int | None, ...] | None:
    import tensorflow as tf

    if not isinstance(spec, tf.TensorSpec):
        return None
    shape = tuple(spec.shape[1:])
    fits = given is None or (
        len(given) == len(shape)
        and all(have in (None, want) for have, want in zip(shape, given, strict=True))
    )
    if not fits:
        raise ConfigurationError(
            f"dataset.shape is {tuple(given or ())}, the function's examples have {shape}",
            where="dataset.shape",
        )
    return shape if given is None else tuple(given)
