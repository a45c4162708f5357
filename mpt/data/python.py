"""The user's own function that returns tf.data.Datasets."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mpt import user_function
from mpt.data import checks
from mpt.data.examples import STALL_SECONDS, Data, counted
from mpt.data.left_out import LeftOut, OnError
from mpt.data.pipeline import ENDLESS, finished
from mpt.data.scan import Source, first_unreadable, scan, usable
from mpt.errors import ConfigurationError

if TYPE_CHECKING:
    import tensorflow as tf

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
    on_error: OnError = "fail",
    stall_seconds: float = STALL_SECONDS,
) -> Data:
    """What `function(**kwargs)` returns: a training dataset, or (training, validation).

    Elements are (x, y) or (x, y, sample_weight); x and y may be structures, and reach the model as
    they are, in the function's order. A dataset is read through once where its length or number of
    classes is not known, or where what is broken is to be left out.

    Args:
        function: also given `batch_size`, `seed`, `shape` and `classes` where it takes them by
            name and `kwargs` does not have them.
        validation_fraction: null or 0: nobody knows if a dataset comes in the same order again.
        shuffle: training examples, in a buffer of 10,000, anew in each epoch.
        shape: of x without the batch; must fit the dataset where it is given.
        examples: of an epoch; required where the dataset has no end, else at most so many.
        batched: whether the elements are batches, of any size; null: where it takes `batch_size`.
        on_error: skip leaves out elements that cannot be made, and rows as `mpt.data.scan` says.

    Raises:
        ConfigurationError: what does not fit, or is too little; FunctionError: the function raised.
    """
    checks.batch(batch_size)
    _refuse_split(validation_fraction)
    if batched is None:
        batched = "batch_size" in inspect.signature(function).parameters
    left_out = LeftOut() if on_error == "skip" else None
    parts = _call(function, kwargs, batch_size=batch_size, seed=seed, shape=shape, classes=classes)
    sources = [_source(each, batched, role, left_out) for role, each in parts.items()]
    rows, classes = _counted(sources, examples, classes, left_out, batch_size, stall_seconds)
    train, validation = _batches(sources, rows, classes, left_out, batch_size, seed, shuffle)
    return counted(
        train,
        validation,
        name=name,
        batch_size=batch_size,
        train_examples=rows[0],
        validation_examples=rows[1],
        shape=_shape(train.element_spec[0], shape),
        classes=classes,
        fingerprint=_fingerprint(function, kwargs or {}, train, rows, left_out),
        left_out=left_out or LeftOut(),
        validation_source="the function's validation dataset" if rows[1] else "none",
        stall_seconds=stall_seconds,
        reshuffles=_reshuffles(parts["training"]),
        locate=partial(first_unreadable, sources) if left_out is None else None,
    )


def _refuse_split(fraction: float | None) -> None:
    if fraction:
        raise ConfigurationError(
            "a dataset from Python cannot be split",
            where="dataset.validation_fraction",
            allowed=["null", 0],
            remedy="return (training, validation) from the function",
        )


def _counted(
    sources: Sequence[Source],
    examples: int | None,
    classes: int | None,
    left_out: LeftOut | None,
    batch_size: int,
    stall_seconds: float,
) -> tuple[tuple[int, int], int | None]:
    """Usable examples to train and to validate on, and the number of classes."""
    train, classes = _measure(sources[0], examples, classes, left_out, stall_seconds)
    told = left_out.warning if left_out else ""
    checks.enough(train, batch_size, "the function's training dataset", told)
    if not sources[1:]:
        return (train, 0), classes
    validation, _ = _measure(sources[1], None, classes, left_out, stall_seconds)
    # An empty last pass would repeat without end.
    checks.enough(validation, 1, "the function's validation dataset")
    return (train, validation), classes


def _batches(
    sources: Sequence[Source],
    rows: tuple[int, int],
    classes: int | None,
    left_out: LeftOut | None,
    batch_size: int,
    seed: int,
    shuffle: bool,
) -> tuple[tf.data.Dataset, tf.data.Dataset | None]:
    """Endless batches to train on, and endless passes to validate on, without what is left out."""
    if left_out is not None:
        sources = [usable(source, batch_size, classes) for source in sources]
    endless = _endless(sources[0], batch_size, rows[0] // batch_size, seed if shuffle else None)
    validation = None
    if sources[1:]:
        validation = finished(_cut(sources[1], batch_size, False).repeat())
    return finished(endless), validation


def _fingerprint(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any],
    train: tf.data.Dataset,
    rows: tuple[int, int],
    left_out: LeftOut | None,
) -> str:
    """SHA-256 of the function's name and arguments, the element spec and the lengths.

    And of what is left out; of no content.
    """
    bad = (left_out.count, left_out.summary) if left_out and left_out.count else ""
    about = f"{function.__module__}:{function.__qualname__} {_told(kwargs)} {train.element_spec}"
    return hashlib.sha256(f"{about} {rows[0]} {rows[1]}{bad}".encode()).hexdigest()


def _told(value: Any) -> str:
    """`value` as every process tells it: plain values as they are, objects by their types.

    The configuration's own words for an object are compared as a part of the configuration.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
        return f"{{{', '.join(f'{key!r}: {_told(child)}' for key, child in items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_told, value))}]"
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{getattr(value, '__module__', '')}:{value.__qualname__}"
    return f"an object of {type(value).__module__}:{type(value).__qualname__}"


def _call(
    function: Callable[..., Any], kwargs: Mapping[str, Any] | None, **offered: Any
) -> dict[str, tf.data.Dataset]:
    """What the function returns: training, and perhaps validation."""
    import tensorflow as tf

    result = user_function.call(function, kwargs, offered, where="dataset")
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if not 1 <= len(parts) <= 2 or not all(isinstance(p, tf.data.Dataset) for p in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ConfigurationError(
            f"{function.__qualname__} returned {kinds}",
            where="dataset.function",
            allowed=["a tf.data.Dataset", "(training, validation)"],
            remedy="tf.data.Dataset.from_tensor_slices((x, y)) makes one of arrays",
        )
    return dict(zip(("training", "validation"), parts, strict=False))


def _source(dataset: tf.data.Dataset, batched: bool, role: str, left_out: LeftOut | None) -> Source:
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
        if left_out is not None and not isinstance(part, tf.TensorSpec):
            raise ConfigurationError(
                f"the {role} dataset has a part that is no dense tensor: {part}",
                where="dataset.on_error",
                allowed=["fail"],
            )
    return Source(dataset, role, batched)


def _measure(
    source: Source,
    examples: int | None,
    classes: int | None,
    left_out: LeftOut | None,
    stall_seconds: float,
) -> tuple[int, int | None]:
    """Usable examples, at most `examples`, and the number of classes, where y is a class."""
    rows = _known_length(source, examples)
    unlabelled = classes is None and source.role == "training" and source.labelled
    if left_out is None and rows is not None and not unlabelled:
        return rows, classes
    found = scan(
        source,
        limit=examples if rows is None or left_out is not None else rows,
        classes=classes,
        left_out=left_out,
        stall_seconds=stall_seconds,
    )
    if unlabelled and found.rows:
        if found.lowest < 0:
            raise ConfigurationError(
                f"the training dataset has the label {found.lowest}; classes are counted from 0",
                where="dataset.function",
                remedy="correct the labels, or make them floats for a regression",
            )
        classes = found.highest + 1
    return found.rows, classes


def _known_length(source: Source, given: int | None) -> int | None:
    """Examples, at most `given`, by the dataset's cardinality; None where it must be read."""
    import tensorflow as tf

    length = int(source.dataset.cardinality())
    if length == tf.data.INFINITE_CARDINALITY:
        if given is None:
            training = source.role == "training"
            raise ConfigurationError(
                f"the {source.role} dataset has no end",
                where="dataset.examples" if training else "dataset.function",
                remedy="set dataset.examples to the length of an epoch"
                if training
                else "end it by .take(n)",
            )
        return given
    size = tf.nest.flatten(source.dataset.element_spec)[0].shape[0] if source.batched else 1
    if length < 0 or size is None:
        return None
    return length * size if given is None else min(length * size, given)


def _cut(source: Source, batch_size: int, drop: bool) -> tf.data.Dataset:
    """The dataset in batches of `batch_size`."""
    import tensorflow as tf

    dataset = source.dataset
    if not source.batched:
        return dataset.batch(batch_size, drop_remainder=drop)
    if all(part.shape[0] == batch_size for part in tf.nest.flatten(dataset.element_spec)):
        return dataset
    return dataset.rebatch(batch_size, drop_remainder=drop)


def _endless(source: Source, batch_size: int, steps: int, seed: int | None) -> tf.data.Dataset:
    """Epochs of `steps` full batches without end, shuffled by `seed` where it is a number."""
    import tensorflow as tf

    if seed is None:
        return _cut(source, batch_size, True).take(steps).repeat()
    singles = source.dataset.unbatch() if source.batched else source.dataset

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        # Within this function alone. The order follows from the seed and the epoch, so that each
        # iterator has the same; one that shuffles again by itself gives each iterator another.
        tf.random.set_seed(seed + 1)
        shuffled = singles.shuffle(SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)
        return shuffled.batch(batch_size, drop_remainder=True).take(steps)

    return tf.data.Dataset.range(ENDLESS).flat_map(epoch)


def _reshuffles(dataset: tf.data.Dataset) -> bool:
    """Whether a `shuffle` in the dataset draws another order for each iterator."""
    return getattr(dataset, "_reshuffle_each_iteration", False) is True or any(
        _reshuffles(each) for each in dataset._inputs()
    )


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
