"""The user's own tf.data.Datasets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import python
from mpt.data.examples import Data
from mpt.errors import ConfigurationError, FunctionError

X = np.arange(30, dtype=np.float32)[:, np.newaxis]
Y = (np.arange(30) % 3).astype(np.int64)


def singles(count: int = 30) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X[:count], Y[:count]))


def build(function: Callable[..., Any], **changes: Any) -> Data:
    return python.build(**{"function": function, "batch_size": 4, "seed": 0, **changes})


def order(dataset: tf.data.Dataset, batches: int) -> list[int]:
    return [int(v) for x, *_ in dataset.take(batches) for v in x[:, 0].numpy()]


def test_single_examples_are_batched_and_repeated() -> None:
    data = build(singles)
    assert (data.steps_per_epoch, data.train_examples, data.classes) == (7, 30, 3)
    assert (data.shape, data.validation, data.validation_batches) == ((1,), None, 0)
    assert order(data.train, 14) == [*range(28), *range(28)]
    assert data.element_spec[0].shape == (4, 1)
    assert data.train.options().autotune.enabled is False


def test_validation_keeps_its_partial_batch() -> None:
    data = build(lambda: (singles(), singles(10)))
    assert (data.validation_examples, data.validation_batches) == (10, 3)
    assert order(data.validation, 6) == [*range(10), *range(10)]


@pytest.mark.parametrize("size", [4, 5, 7])
@pytest.mark.parametrize("drop", [True, False])
def test_batches_are_cut_again(size: int, drop: bool) -> None:
    def load() -> tuple[tf.data.Dataset, tf.data.Dataset]:
        return singles().batch(size, drop_remainder=drop), singles(10).batch(size)

    data = build(load, batched=True)
    rows = 30 // size * size if drop else 30
    assert (data.train_examples, data.validation_examples) == (rows, 10)
    assert data.steps_per_epoch == rows // 4
    assert order(data.train, rows // 4 + 1)[: rows // 4 * 4] == list(range(rows // 4 * 4))
    assert order(data.train, rows // 4 + 1)[rows // 4 * 4] == 0
    assert order(data.validation, data.validation_batches) == list(range(10))


def test_a_function_that_takes_batch_size_returns_batches() -> None:
    def load(batch_size: int, seed: int, limit: int) -> tf.data.Dataset:
        return singles(limit).batch(batch_size + seed, drop_remainder=True)

    data = build(load, kwargs={"limit": 16}, seed=0)
    assert (data.train_examples, data.steps_per_epoch) == (16, 4)


class Augmentation:
    """Has no `__repr__` of its own, so that Python's tells its address."""


class Other(Augmentation):
    """Another class."""


def test_the_fingerprint_is_that_of_the_configuration_not_of_an_object_s_address() -> None:
    def load(**kwargs: Any) -> tf.data.Dataset:
        return singles()

    def fingerprint(first: Any, second: Any, rate: Any = 0.5) -> str:
        kwargs = {"aug": first, "all": [{"deep": second, "rate": rate}], "name": "x"}
        return build(load, kwargs=kwargs).fingerprint

    objects = [Augmentation() for _ in range(4)]  # alive together: each at an address of its own
    same = fingerprint(objects[0], objects[1])
    assert fingerprint(objects[2], objects[3]) == same
    others = {
        fingerprint(Other(), objects[1]),
        fingerprint(objects[0], Other()),
        fingerprint(objects[0], objects[1], rate=0.25),
        fingerprint(objects[0], objects[1], rate="0.5"),
        fingerprint(objects[0], Augmentation),
        fingerprint(objects[0], singles),
    }
    assert len(others - {same}) == 6


def test_unknown_length_is_counted() -> None:
    data = build(lambda: singles().filter(lambda x, y: y != 1))
    assert (data.train_examples, data.steps_per_epoch, data.classes) == (20, 5, 3)


def test_no_end_needs_examples() -> None:
    with pytest.raises(ConfigurationError, match="has no end") as caught:
        build(lambda: singles().repeat())
    assert caught.value.where == "dataset.examples"
    data = build(lambda: singles().repeat(), examples=12)
    assert (data.train_examples, data.steps_per_epoch) == (12, 3)
    assert order(data.train, 4) == [*range(12), 0, 1, 2, 3]


def test_shuffle_follows_the_seed_and_changes_by_epoch() -> None:
    tf.random.set_seed(0)
    first = order(build(singles, shuffle=True, seed=3).train, 14)
    tf.random.set_seed(0)
    assert order(build(singles, shuffle=True, seed=3).train, 14) == first
    assert first[:28] != first[28:]
    assert len(set(first[:28])) == 28


def test_a_position_is_that_of_reading_up_to_it() -> None:
    def load() -> tf.data.Dataset:
        return singles().shuffle(30, seed=1, reshuffle_each_iteration=False)

    data = build(load)
    read = order(data.train, 21)
    assert sorted(read[:28]) != read[:28]
    for position in (0, 6, 7, 15):
        assert order(data.at(position), 6) == read[4 * position : 4 * (position + 6)]


@pytest.mark.parametrize("given", [{}, {"seed": 1}])
def test_a_shuffle_that_draws_anew_is_noticed(given) -> None:
    assert build(lambda: singles().shuffle(30, **given)).reshuffles
    assert build(lambda: singles().shuffle(30, **given).map(lambda x, y: (x, y))).reshuffles
    assert not build(lambda: singles().shuffle(30, reshuffle_each_iteration=False)).reshuffles
    assert not build(singles).reshuffles
    assert not build(singles, shuffle=True).reshuffles


def test_structures_and_sample_weights() -> None:
    def load() -> tf.data.Dataset:
        x = {"a": X, "b": X * 2}
        return tf.data.Dataset.from_tensor_slices((x, {"out": X}, np.ones(30, np.float32)))

    data = build(load)
    assert data.shape is None
    assert data.classes is None
    assert data.element_spec[0]["b"].shape == (4, 1)
    assert len(data.element_spec) == 3


def test_classes_given_are_kept_and_passed_on() -> None:
    def load(classes: int, shape: tuple[int, ...]) -> tf.data.Dataset:
        assert (classes, tuple(shape)) == (7, (1,))
        return singles()

    data = build(load, classes=7, shape=[1])
    assert (data.classes, data.shape) == (7, (1,))


def test_nan_reaches_the_training() -> None:
    data = build(lambda: singles().map(lambda x, y: (x * np.nan, y)))
    assert np.isnan(next(iter(data.train))[0]).all()


def needs_size(size: int) -> tf.data.Dataset:
    return singles(size)


@pytest.mark.parametrize(
    ("function", "changes", "message", "where"),
    [
        (lambda: [1, 2, 3], {}, "returned int, int, int", "dataset.function"),
        (lambda: None, {}, "returned NoneType", "dataset.function"),
        (lambda: singles().map(lambda x, y: x), {}, "elements of the training", "dataset.function"),
        (lambda: (singles(), singles().repeat()), {}, "validation dataset has no", "function"),
        (lambda: (singles(), singles(0)), {}, "larger than the 0", "batch_size"),
        (singles, {"kwargs": {"cout": 3}}, "unexpected keyword argument 'cout'", "dataset.kwargs"),
        (needs_size, {}, "missing a required argument", "dataset.kwargs"),
        (singles, {"validation_fraction": 0.2}, "cannot be split", "validation_fraction"),
        (singles, {"batch_size": 31}, "larger than the 30", "batch_size"),
        (singles, {"shape": [2]}, "have .1,.", "dataset.shape"),
        (lambda: singles().map(lambda x, y: (x, y - 2)), {}, "the label -2", "dataset.function"),
        (singles, {"batched": True}, "part of shape", "dataset.function"),
    ],
)
def test_refused(
    function: Callable[..., Any], changes: dict[str, Any], message: str, where: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(function, **changes)
    assert where in (caught.value.where or "")


def test_arrays_in_the_place_of_datasets_are_told_what_makes_one() -> None:
    def load() -> Any:
        pair = (np.zeros((4, 2)), np.zeros(4))
        return pair, pair

    with pytest.raises(ConfigurationError) as caught:
        python.build(function=load, batch_size=2, seed=0)
    assert "tf.data.Dataset.from_tensor_slices((x, y)) makes one" in caught.value.remedy


def test_what_a_function_raises_names_it() -> None:
    def load() -> Any:
        raise ValueError("cannot reach the server")

    with pytest.raises(FunctionError, match="raised ValueError: cannot reach") as caught:
        python.build(function=load, batch_size=2, seed=0)
    assert (caught.value.where, caught.value.exit_code) == ("dataset.function", 1)
