"""Batches: their order, shapes, dtypes, values and split."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import checks, gathering, pipeline
from mpt.data.examples import Data, Examples
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError


def rows(count: int, **changes: Any) -> Examples:
    """x holds the row's number, y its class of three."""
    x = np.arange(count, dtype=np.float32)[:, np.newaxis]
    y = np.arange(count, dtype=np.int64) % 3
    return Examples(**{"x": x, "y": y, "where": "rows", **changes})


def build(examples: Examples, *others: Examples, **changes: Any) -> Data:
    arguments: dict[str, Any] = {
        "name": "rows",
        "batch_size": 4,
        "seed": 0,
        "validation_fraction": 0.25,
        "shuffle": True,
        "classes": None,
    }
    return from_arrays(examples, *others, **{**arguments, **changes})


def order(dataset: tf.data.Dataset, batches: int) -> list[int]:
    return [int(v) for x, _ in dataset.take(batches) for v in x[:, 0].numpy()]


def test_sizes_and_spec() -> None:
    data = build(rows(30))
    assert (data.train_examples, data.validation_examples) == (22, 8)
    assert (data.steps_per_epoch, data.validation_batches) == (5, 2)
    assert (data.shape, data.classes, data.bad_rows) == ((1,), 3, 0)
    assert data.element_spec == (
        tf.TensorSpec((4, 1), tf.float32),
        tf.TensorSpec((4,), tf.int32),
    )
    assert data.validation_source == "0.25 of the training examples"


def test_an_epoch_has_each_row_at_most_once_and_none_of_the_validation() -> None:
    data = build(rows(30))
    seen = order(data.train, 10)
    held_out = set(order(data.validation, 2))
    assert len(held_out) == 8
    for epoch in (seen[:20], seen[20:]):
        assert len(set(epoch)) == 20
        assert not held_out & set(epoch)
    assert seen[:20] != seen[20:]


def test_rows_left_over_change_from_epoch_to_epoch() -> None:
    seen = order(build(rows(30)).train, 50)
    left_over = {
        frozenset(set(seen) - set(seen[start : start + 20])) for start in range(0, 200, 20)
    }
    assert len(left_over) > 5


def test_order_follows_the_seed_and_the_split_does_not() -> None:
    first, again, other = (build(rows(400), seed=seed) for seed in (5, 5, 6))
    assert order(first.train, 100) == order(again.train, 100)
    assert order(first.train, 100) != order(other.train, 100)
    assert order(first.validation, 25) == order(other.validation, 25)
    assert first.fingerprint == other.fingerprint


def test_neighbouring_epochs_have_unrelated_orders() -> None:
    steps = 15_000 // 128
    data = build(rows(20_000), batch_size=128)
    seen = order(data.train, 3 * steps)
    epochs = [np.array(seen[i * steps * 128 : (i + 1) * steps * 128]) for i in range(3)]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert abs(np.corrcoef(epochs[a], epochs[b])[0, 1]) < 0.05


def test_without_shuffle_rows_keep_their_order() -> None:
    data = build(rows(8), shuffle=False, validation_fraction=0)
    assert order(data.train, 4) == [*range(8), *range(8)]
    assert data.validation is None
    assert (data.validation_batches, data.validation_source) == (0, "none")


def test_validation_repeats_whole_passes_with_a_partial_last_batch() -> None:
    data = build(rows(30), rows(10, where="held out"), validation_fraction=None)
    sizes = [len(x) for x, _ in data.validation.take(2 * data.validation_batches)]
    assert sizes == [4, 4, 2, 4, 4, 2]
    assert order(data.validation, 3) == list(range(10))
    assert data.train_examples == 30
    assert data.validation_source == "official test split"


def test_a_fraction_leaves_the_held_out_examples_unused() -> None:
    data = build(rows(30), rows(10, where="held out"), validation_fraction=0.5)
    assert (data.train_examples, data.validation_examples) == (15, 15)


def test_each_class_is_split_in_the_same_ratio() -> None:
    y = np.repeat([0, 1, 2], [60, 30, 10])
    data = build(rows(100, y=y), validation_fraction=0.2)
    labels = np.concatenate([y.numpy() for _, y in data.validation.take(5)])
    assert np.bincount(labels).tolist() == [12, 6, 2]


def test_examples_are_drawn_by_class_before_the_split() -> None:
    y = np.repeat([0, 1], [80, 20])
    data = build(rows(100, y=y), take=50, validation_fraction=0)
    labels = np.concatenate([y.numpy() for _, y in data.train.take(12)])
    assert data.train_examples == 50
    assert np.bincount(labels)[1] == pytest.approx(10, abs=2)


@pytest.mark.parametrize(
    ("stored", "scale", "expected", "dtype"),
    [
        (np.array([[0], [255]], np.uint8), None, [0, 1], tf.float32),
        (np.array([[0], [255]], np.uint8), 1.0, [0, 255], tf.float32),
        (np.array([[7], [9]], np.int64), None, [7, 9], tf.int32),
        (np.array([[7], [9]], np.int16), 0.5, [3.5, 4.5], tf.float32),
        (np.array([[True], [False]]), None, [1, 0], tf.float32),
        (np.array([[0.5], [2]], np.float64), None, [0.5, 2], tf.float32),
        (np.array([[0.5], [2]], np.float16), 2.0, [1, 4], tf.float32),
        (np.array([[0.5], [2]], ">f4"), None, [0.5, 2], tf.float32),
    ],
)
def test_dtype_and_scale(
    stored: np.ndarray, scale: float | None, expected: list[float], dtype: tf.DType
) -> None:
    y = np.zeros(2, np.uint8)
    data = build(
        Examples(stored, y, "two"),
        batch_size=2,
        validation_fraction=0,
        shuffle=False,
        scale=scale,
    )
    x, y_batch = next(iter(data.train))
    assert (x.dtype, y_batch.dtype) == (dtype, tf.int32)
    assert x[:, 0].numpy().tolist() == pytest.approx(expected)


def test_float_labels_are_a_regression() -> None:
    data = build(rows(30, y=np.linspace(0, 1, 30)))
    assert data.classes is None
    assert data.element_spec[1].dtype == tf.float32


def test_labels_in_a_column_lose_it_and_masks_keep_their_axes() -> None:
    assert build(rows(30, y=np.zeros((30, 1), np.uint8))).element_spec[1].shape == (4,)
    assert build(rows(30, y=np.zeros((30, 5, 5), bool))).element_spec[1].shape == (4, 5, 5)


def test_the_place_in_the_data_can_be_saved_and_restored(tmp_path: Any) -> None:
    data = build(rows(30))
    iterator = iter(data.train)
    for _ in range(7):
        next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    path = checkpoint.write(str(tmp_path / "place"))
    following = [next(iterator)[0].numpy().tolist() for _ in range(9)]
    fresh = iter(build(rows(30)).train)
    tf.train.Checkpoint(iterator=fresh).read(path).assert_consumed()
    assert [next(fresh)[0].numpy().tolist() for _ in range(9)] == following


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "batch_size"), [(30, 4), (9, 9), (700, 2)])
def test_a_position_gives_what_reading_up_to_it_would(
    shuffle: bool, count: int, batch_size: int
) -> None:
    data = build(rows(count), batch_size=batch_size, validation_fraction=0, shuffle=shuffle)
    steps = count // batch_size
    block = steps * math.ceil(pipeline.BATCHES_PER_ORDER / steps)
    edges = [0, steps, 2 * steps, block, 2 * block]
    read = list(data.train.take(2 * block + steps + 5).as_numpy_iterator())
    for position in sorted({max(0, edge + by) for edge in edges for by in (-1, 0, 1)}):
        found = list(data.at(position).take(steps + 2).as_numpy_iterator())
        expected = read[position : position + steps + 2]
        assert len(found) == len(expected)
        for (x, y), (x_read, y_read) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(x, x_read)
            np.testing.assert_array_equal(y, y_read)


def test_a_position_is_reached_without_the_batches_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[np.ndarray] = []

    def note(positions: np.ndarray) -> np.ndarray:
        made.append(positions)
        return positions

    def gather(examples: Examples, wanted: np.ndarray, scale: float | None) -> Any:
        return lambda positions: tf.numpy_function(note, [positions], tf.int32)

    monkeypatch.setattr(pipeline, "gather", gather)
    data = build(rows(700), batch_size=2, validation_fraction=0)
    next(iter(data.at(340)))  # late in the first block
    assert 0 < len(made) <= 1 + pipeline.PREFETCHED_BATCHES + 2 * pipeline.PARALLEL_BATCHES


def test_a_position_that_no_reading_would_reach_in_time() -> None:
    data = build(rows(30), validation_fraction=0)
    far = 10**9
    ahead = list(data.at(far).take(200).as_numpy_iterator())
    for x, again in zip(ahead[150:160], data.at(far + 150).as_numpy_iterator(), strict=False):
        np.testing.assert_array_equal(x[0], again[0])
    with pytest.raises(ValueError, match="no batch -1"):
        data.at(-1)


@pytest.mark.parametrize("source", ["arrays", "python"])
def test_a_traced_function_takes_every_position(source: str) -> None:
    traces: list[None] = []

    @tf.function(reduce_retracing=True)
    def step(iterator: Any) -> tf.Tensor:
        traces.append(None)
        return next(iterator)[0]

    data = build(rows(30), validation_fraction=0)
    if source == "python":
        data = dataclasses.replace(data, jump=None)
    assert data.at(5).element_spec == data.element_spec
    fifth = step(iter(data.train.skip(5)))
    np.testing.assert_array_equal(step(iter(data.at(5))), fifth)
    step(iter(data.train))
    step(iter(data.at(77)))
    assert len(traces) == 1


def test_the_autotuner_is_off() -> None:
    data = build(rows(30))
    assert data.train.options().autotune.enabled is False
    assert data.validation.options().autotune.enabled is False


def test_large_maps_are_read_by_the_batch(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(30, 2)
    np.save(tmp_path / "x.npy", values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    in_memory = build(rows(30, x=mapped))
    monkeypatch.setattr(gathering, "MEMORY_MAP_ABOVE", 1)
    from_file = build(rows(30, x=mapped))
    assert gathering.is_large_map(mapped)
    assert from_file.element_spec == in_memory.element_spec
    for (x, y), (x_file, y_file) in zip(
        in_memory.train.take(12), from_file.train.take(12), strict=True
    ):
        np.testing.assert_array_equal(x, x_file)
        np.testing.assert_array_equal(y, y_file)
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in in_memory.validation.take(2)]),
        np.concatenate([x for x, _ in from_file.validation.take(2)]),
    )


def test_fingerprint_follows_the_content() -> None:
    same, changed = rows(30), rows(30)
    changed.x[3] += 1
    assert build(rows(30)).fingerprint == build(same).fingerprint
    assert build(rows(30)).fingerprint != build(changed).fingerprint


def test_fingerprint_follows_every_byte_of_a_large_array(tmp_path: Path) -> None:
    def fingerprint(x: np.ndarray) -> str:
        return checks.fingerprint([Examples(x, np.zeros(len(x)), "rows")])

    x = np.random.default_rng(0).integers(0, 256, (70_000, 640), np.uint8)  # 43 MiB
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r+")
    whole = fingerprint(x)
    assert fingerprint(mapped) == fingerprint(np.asfortranarray(x)) == whole
    for row, column in ((1, 0), (35_001, 7), (69_998, 639)):
        x[row, column] ^= 1
        assert fingerprint(x) != whole
        mapped[row, column] ^= 1
        assert fingerprint(mapped) == fingerprint(x)
        x[row, column] ^= 1
        mapped[row, column] ^= 1
    assert fingerprint(x) == whole


def test_fingerprint_of_a_file_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(checks, "HASHED_ROWS", 10)
    file = tmp_path / "x.npy"
    np.save(file, np.zeros((500, 1), np.float32))

    def fingerprint() -> str:
        x = np.load(file, mmap_mode="r")[:, 0]
        return checks.fingerprint([Examples(x, np.zeros(3), "rows")])

    first, times = fingerprint(), file.stat()
    assert fingerprint() == first
    changed = np.load(file, mmap_mode="r+")
    changed[0] = 1  # one of the ten rows
    changed.flush()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint() != first
    changed[0] = 0
    changed.flush()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint() == first
    changed[1] = 1  # none of them: the time of the change tells
    changed.flush()
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert fingerprint() != first
    with file.open("ab") as stream:
        stream.write(b"more")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("examples", "changes", "message", "where"),
    [
        (rows(6, y=np.zeros(5, int)), {}, "x has 6 rows, y has 5", "rows"),
        (rows(0), {}, "no examples", "rows"),
        (rows(6, y=np.array([0, 1, -1, 2, 0, 7])), {"classes": 3}, "2 of 6 rows.*rows 2, 5", "(y)"),
        (rows(6, y=np.array([0, 1, -1, 2, 0, 1])), {}, r"label outside \[0, 3\), as -1", "(y)"),
        (rows(6, y=np.zeros(6)), {"classes": 3}, "labels are of dtype", "dataset.classes"),
        (rows(6), {"classes": 0}, "0 classes", "dataset.classes"),
        (rows(6, x=np.array([{}] * 6)), {}, "dtype object", "(x)"),
        (rows(6, y=np.array(list("abcdef"))), {}, "dtype <U1", "(y)"),
        (rows(6, x=np.full((6, 1), 2**40)), {}, "6 of 6 rows hold a number beyond 32", "(x)"),
        (rows(6), {"batch_size": 6}, "batch of 6 is larger than the 4", "batch_size"),
        (rows(6), {"batch_size": 0}, "batch of 0", "batch_size"),
        (rows(6), {"validation_fraction": 1.0}, "no share", "validation_fraction"),
        (rows(6), {"validation_fraction": -0.1}, "no share", "validation_fraction"),
        (rows(6), {"validation_fraction": 0.01}, "less than one", "validation_fraction"),
        (rows(6), {"take": 7}, "7 examples are asked for, there are 6", "dataset.examples"),
        (rows(6), {"take": 0}, "0 examples", "dataset.examples"),
        (rows(6, x=np.float32(1)), {}, "scalar", "rows"),
    ],
)
def test_refused(examples: Examples, changes: dict[str, Any], message: str, where: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(examples, **changes)
    assert where in (caught.value.where or "")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_rows_with_nan_or_infinity_are_counted_and_named(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpt.data.broken.CHUNK_BYTES", 40)  # several chunks
    x = np.zeros((30, 2))
    x[[4, 11, 12, 13, 20, 21, 29], 1] = bad
    with pytest.raises(
        ConfigurationError, match=r"7 of 30 rows hold NaN or infinity: rows 4, 11, 12, 13, 20, \.\."
    ):
        build(rows(30, x=x))


def test_other_shape_in_the_held_out_examples() -> None:
    with pytest.raises(ConfigurationError, match=r"shape \(1,\), validation examples \(2,\)"):
        build(rows(6), rows(6, x=np.zeros((6, 2))), validation_fraction=None)
