"""The user's own function that returns tf.data.Datasets."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mpt.data import checks
from mpt.data.broken import LeftOut, OnError
from mpt.data.pipeline import ENDLESS, STALL_SECONDS, Data, finished
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

    Elements are (x, y) or (x, y, sample_weight); x and y may be structures. They reach the model
    with the values and dtypes that the function gave them. The order is as deterministic as the
    function makes it. A dataset of unknown length is read through once to count it, and so is one
    of integer labels where `classes` is null, to find the largest; and every one is, to find what
    is broken, where that is to be left out. The fingerprint holds the function's name and arguments
    (of objects the types), the element spec and the lengths, and what is left out; no content.

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
        on_error: fail ends with the first element that cannot be made, and lets every value that
            the function gives reach the model; skip leaves out elements that cannot be made, and
            rows with NaN, infinity, an integer beyond 32 bits or a label out of range.
        stall_seconds: an element or batch that takes longer to come is taken for one that never
            will.

    Raises:
        ConfigurationError: arguments that do not fit, a result that is no such dataset, no
            examples, a dataset without end and without `examples`, fewer examples than a batch, an
            element that cannot be made where it was to be counted.
    """
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
    left_out = LeftOut() if on_error == "skip" else None
    sources = [_source(train, batched, "training", left_out)]
    train_examples, classes = _measure(sources[0], examples, classes, left_out, stall_seconds)
    told = left_out.warning if left_out else ""
    checks.enough(train_examples, batch_size, "the function's training dataset", told)
    validation_examples = 0
    if validation is not None:
        sources.append(_source(validation, batched, "validation", left_out))
        validation_examples, _ = _measure(sources[1], None, classes, left_out, stall_seconds)
        # An empty last pass would repeat without end.
        checks.enough(validation_examples, 1, "the function's validation dataset")
    read = sources
    if left_out is not None:
        read = [usable(source, batch_size, classes) for source in sources]
    steps = train_examples // batch_size
    endless = finished(_endless(read[0], batch_size, steps, seed if shuffle else None))
    spec = endless.element_spec
    return Data(
        name=name,
        train=endless,
        validation=finished(_cut(read[1], batch_size, False).repeat()) if read[1:] else None,
        validation_batches=-(-validation_examples // batch_size),
        steps_per_epoch=steps,
        train_examples=train_examples,
        validation_examples=validation_examples,
        shape=_shape(spec[0], shape),
        classes=classes,
        element_spec=spec,
        fingerprint=hashlib.sha256(
            f"{function.__module__}:{function.__qualname__} {_told(kwargs or {})} "
            f"{spec} {train_examples} {validation_examples}"
            f"{(left_out.count, left_out.summary) if left_out and left_out.count else ''}".encode()
        ).hexdigest(),
        bad_rows=left_out.count if left_out else 0,
        bad_row_names=left_out.summary if left_out else (),
        warnings=left_out.warnings if left_out else (),
        validation_source="the function's validation dataset" if validation_examples else "none",
        stall_seconds=stall_seconds,
        reshuffles=_reshuffles(train),
        locate=partial(first_unreadable, sources) if left_out is None else None,
    )


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
