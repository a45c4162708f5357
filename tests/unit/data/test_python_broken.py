"""Datasets from Python with elements that cannot be made, or hold what cannot be trained on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import python, scan
from mpt.data.errors import first_batch, input_error, words
from mpt.data.examples import Data
from mpt.errors import ConfigurationError

SIZE = 24
CUT, EMPTY, TEXT = 7, 11, 13


def build(function: Callable[..., Any], **changes: Any) -> Data:
    return python.build(**{"function": function, "batch_size": 4, "seed": 0, **changes})


def skip(function: Callable[..., Any], **changes: Any) -> Data:
    return build(function, on_error="skip", **changes)


def stream(dataset: tf.data.Dataset, batches: int) -> list[int]:
    """The first number of each row."""
    taken = dataset.take(batches).as_numpy_iterator()
    return [int(v) for x, *_ in taken for v in x.reshape(len(x), -1)[:, 0]]


def jpegs() -> list[bytes]:
    """Photographs of noise, each of one colour in its first corner; three are broken."""
    random = np.random.default_rng(0)
    files = []
    for row in range(SIZE):
        image = random.integers(0, 255, (32, 32, 3), np.uint8)
        image[:16, :16] = 10 * row
        files.append(tf.io.encode_jpeg(image, quality=100).numpy())
    files[CUT] = files[CUT][: len(files[CUT]) // 3]
    files[EMPTY] = b""
    files[TEXT] = b"no picture"
    return files


def images(keep: slice | list[int] = slice(None)) -> tf.data.Dataset:
    files, labels = np.array(jpegs(), object)[keep], np.arange(SIZE)[keep] % 3

    def decode(content: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.io.decode_jpeg(content, channels=3)
        return tf.ensure_shape(tf.cast(pixels, tf.float32), (32, 32, 3)), label

    dataset = tf.data.Dataset.from_tensor_slices((list(files), labels))
    return dataset.map(decode, num_parallel_calls=3)


def values(count: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(count, dtype=np.float32)[:, np.newaxis], np.arange(count, dtype=np.int64) % 3


def slices(x: np.ndarray, y: np.ndarray, *more: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y, *more))


def test_broken_images_are_left_out_and_named() -> None:
    data = skip(images)
    good = [row for row in range(SIZE) if row not in (CUT, EMPTY, TEXT)]
    assert (data.train_examples, data.bad_rows, data.classes) == (21, 3, 3)
    assert [name.partition(": ")[0] for name in data.bad_row_names] == [
        f"example {row} of the training dataset" for row in (CUT, EMPTY, TEXT)
    ]
    assert data.bad_row_names[1].endswith("Input is empty.")
    assert "JPEG" in data.bad_row_names[0]
    assert not any("{{" in name or "Iterator::" in name for name in data.bad_row_names)
    assert data.warnings[0].startswith("3 of 24 rows (12.5%) are left out: example 7 of")
    expected = build(lambda: images(good))
    for (x, y), (x_good, y_good) in zip(data.train.take(12), expected.train.take(12), strict=True):
        np.testing.assert_array_equal(x, x_good)
        np.testing.assert_array_equal(y, y_good)
    assert data.element_spec == expected.element_spec
    assert data.fingerprint != expected.fingerprint
    np.testing.assert_array_equal(next(iter(data.at(8)))[0], next(iter(expected.train.skip(8)))[0])


def test_a_broken_image_that_is_counted_ends_with_its_number() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(images)
    assert str(caught.value).startswith(f"example {CUT} of the training dataset could not be read")
    assert "JPEG" in caught.value.message
    assert "dataset.on_error=skip" in str(caught.value.remedy)
    assert "\n" not in caught.value.message


def records(path: Path, first: int, count: int = 10) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(first, first + count):
            writer.write(np.float32([row, 1]).tobytes())
    return str(path)


def record_dataset(files: list[str]) -> tf.data.Dataset:
    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.ensure_shape(tf.io.decode_raw(record, tf.float32), (2,))
        return x, tf.cast(x[0], tf.int32) % 3

    return tf.data.TFRecordDataset(files).map(parse)


def test_a_truncated_record_file_is_read_up_to_its_break_and_then_the_next(tmp_path: Path) -> None:
    files = [records(tmp_path / "a", 0), records(tmp_path / "b", 10)]
    whole = Path(files[0]).read_bytes()
    Path(files[0]).write_bytes(whole[: 6 * len(whole) // 10 + 15])  # six records, and a bit
    data = skip(lambda: record_dataset(files))
    assert (data.train_examples, data.bad_rows) == (16, 1)
    assert data.bad_row_names[0].startswith("example 6 of the training dataset: truncated record")
    expected = [*range(6), *range(10, 20)]
    assert stream(data.train, 8) == expected * 2
    with pytest.raises(ConfigurationError, match=r"example 6 of .*truncated record") as caught:
        build(lambda: record_dataset(files))
    assert "write the file again" in str(caught.value.remedy)


def test_a_file_that_is_not_there_is_not_looked_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "STUCK", 20)

    def load(length: int) -> tf.data.Dataset:
        dataset = record_dataset([records(tmp_path / "a", 0), str(tmp_path / "absent")])
        return dataset.apply(tf.data.experimental.assert_cardinality(length)) if length else dataset

    for length, times in ((0, 21), (30, 31)):
        with pytest.raises(
            ConfigurationError, match=f"{times} elements in a row.*absent"
        ) as caught:
            skip(load, kwargs={"length": length})
        assert f"example {9 + times} of the training dataset" in caught.value.message


def test_failures_with_good_elements_between_are_not_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scan, "STUCK", 20)

    def pick(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        bad = tf.debugging.Assert(row % 10 != 9, ["always the same words"])
        with tf.control_dependencies([bad]):
            return tf.cast(row, tf.float32)[tf.newaxis], row % 3

    data = skip(lambda: tf.data.Dataset.range(300).filter(lambda row: row >= 0).map(pick))
    assert (data.train_examples, data.bad_rows) == (270, 30)
    assert stream(data.train, 67) == [row for row in range(300) if row % 10 != 9][:268]


def unread(paths: list[str]) -> tf.data.Dataset:
    """Elements of `paths`, over and over, none of which is there."""
    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat(50)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.map(lambda path: (tf.strings.to_number([tf.io.read_file(path)]), 0))


def test_files_of_a_wrong_folder_are_not_read_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "STUCK", 20)
    paths = [str(tmp_path / f"{number}.txt") for number in range(400)]
    with pytest.raises(ConfigurationError, match="only 0 of the first 241 rows") as caught:
        skip(lambda: unread(paths), examples=4)
    assert caught.value.where == "dataset.examples"
    assert "example 0 of the training dataset: " in caught.value.message
    assert f"{paths[0]}; No such file" in caught.value.message
    # Few of them come again and again, each in words of its own.
    with pytest.raises(ConfigurationError, match=r"21 elements in a row, up to example 22 .*1.txt"):
        skip(lambda: unread(paths[:3]), examples=4)


def test_shards_that_are_not_there_fail_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "STUCK", 20)
    absent = [str(tmp_path / name) for name in "ab"]

    def load() -> tf.data.Dataset:
        def parse(record: tf.Tensor) -> tuple[tf.Tensor, int]:
            return tf.ensure_shape(tf.io.decode_raw(record, tf.float32), (2,)), 0

        shards = tf.data.Dataset.from_tensor_slices(absent)
        return shards.interleave(tf.data.TFRecordDataset, cycle_length=2, num_parallel_calls=2).map(
            parse
        )

    with pytest.raises(ConfigurationError, match="21 elements in a row"):
        skip(load)


def test_a_generator_that_raises_has_given_its_last_element() -> None:
    def generate() -> Iterator[tuple[np.ndarray, int]]:
        for row in range(10):
            yield np.float32([row]), row % 2
        raise OSError("lost photos/0010.png")

    def load() -> tf.data.Dataset:
        signature = (tf.TensorSpec((1,), tf.float32), tf.TensorSpec((), tf.int32))
        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    data = skip(load, batch_size=5)
    assert (data.train_examples, data.bad_rows) == (10, 1)
    assert data.bad_row_names == (
        "example 10 of the training dataset: OSError: lost photos/0010.png",
    )
    assert stream(data.train, 4) == [*range(10), *range(10)]
    with pytest.raises(ConfigurationError, match=r"example 10 of .*: OSError: lost photos/0010"):
        build(load)


@pytest.mark.parametrize("batched", [None, 5, 24])
def test_rows_that_cannot_be_trained_on(batched: int | None) -> None:
    x, y = values()
    weights = np.ones(SIZE, np.float64)
    x[3], x[4], y[10], y[12], weights[20] = np.nan, np.inf, 3, -1, 1e300

    def load() -> tuple[tf.data.Dataset, tf.data.Dataset]:
        both = slices(x, y, weights), slices(x, y, weights)
        return both if batched is None else tuple(part.batch(batched) for part in both)

    data = skip(load, classes=3, batched=batched is not None)
    good = [row for row in range(SIZE) if row not in (3, 4, 10, 12, 20)]
    assert (data.train_examples, data.validation_examples, data.bad_rows) == (19, 19, 10)
    assert stream(data.train, 8) == good[:16] * 2
    assert stream(data.validation, 10) == good * 2
    whats = ["NaN", "infinity", *["a label out of range"] * 2, "infinity"]
    rows = (3, 4, 10, 12, 20)
    size = batched or 1
    names = [
        f"example {row}" if batched is None else f"row {row % size} of batch {row // size}"
        for row in rows
    ]
    assert data.bad_row_names == tuple(
        f"{name} of the {role} dataset: {what}"
        for role in ("training", "validation")
        for name, what in zip(names, whats, strict=True)
    )


def test_classes_are_those_of_the_good_rows() -> None:
    x, y = values()
    y[5], y[6], x[7], y[7] = 2**40, -3, np.nan, 50
    data = skip(lambda: slices(x, y))
    assert (data.classes, data.bad_rows) == (3, 3)
    assert data.bad_row_names[0] == "example 5 of the training dataset: a number beyond 32 bits"


def test_structures_are_looked_through() -> None:
    x, y = values()
    other = np.ones((SIZE, 2, 2), np.float32)
    other[9, 1, 0] = -np.inf
    data = skip(lambda: slices({"a": x, "b": other}, {"out": x, "name": y.astype("S")}))
    assert data.bad_row_names == ("example 9 of the training dataset: infinity",)
    rows = [int(v) for batch in data.train.take(5) for v in batch[0]["a"][:, 0].numpy()]
    assert rows == [row for row in range(21) if row != 9]


def test_a_batch_that_cannot_be_made_is_left_out_whole() -> None:
    data = skip(lambda: images().batch(4), batched=True)
    assert data.bad_rows == 12
    assert [name.partition(":")[0] for name in data.bad_row_names] == [
        f"batch {number} of the training dataset" for number in (1, 2, 3)
    ]
    assert data.train_examples == 12


def test_without_end_only_as_many_are_read_as_are_asked_for() -> None:
    x, y = values()
    x[2] = np.nan
    data = skip(lambda: slices(x, y).repeat(), examples=12)
    assert (data.train_examples, data.bad_rows) == (12, 1)
    assert stream(data.train, 4) == [*[row for row in range(13) if row != 2], 0, 1, 3, 4]


def test_without_end_and_without_good_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "STUCK", 1)
    x, y = values()
    with pytest.raises(ConfigurationError, match="only 0 of the first 131 rows") as caught:
        skip(lambda: slices(x * np.nan, y).repeat(), examples=12)
    assert caught.value.where == "dataset.examples"


def test_too_few_good_rows() -> None:
    x, y = values()
    x[2:] = np.nan
    with pytest.raises(ConfigurationError, match=r"than the 2 training .*22 of 24 rows \(91.7%\)"):
        skip(lambda: slices(x, y))
    with pytest.raises(ConfigurationError, match=r"than the 0 training .*24 of 24 rows \(100%\)"):
        skip(lambda: slices(x * np.nan, y))


def test_the_first_twenty_are_named() -> None:
    x, y = values(120)
    x[5:30] = np.nan
    data = skip(lambda: slices(x, y))
    assert data.bad_rows == 25
    assert data.bad_row_names[19:] == (
        "example 24 of the training dataset: NaN",
        "... and 5 more",
    )


def test_ragged_parts_cannot_be_looked_through() -> None:
    ragged = tf.ragged.constant([[1.0], [2.0, 3.0]])
    with pytest.raises(ConfigurationError, match="no dense tensor") as caught:
        skip(lambda: tf.data.Dataset.from_tensor_slices((ragged, [0, 1])))
    assert caught.value.where == "dataset.on_error"


def test_every_iterator_has_the_same_shuffled_order() -> None:
    x, y = values()
    x[3] = np.nan
    for seed in (0, 7):
        tf.random.set_seed(seed)
        data = skip(lambda: slices(x, y), shuffle=True, seed=seed)
        first = stream(data.train, 15)
        assert stream(data.train, 15) == first
        assert stream(data.at(7), 8) == first[28:]
        assert first[:20] != first[20:40]
        assert 3 not in first


def loop(dataset: tf.data.Dataset, steps: int) -> None:
    """A training loop of `steps` steps."""
    weight = tf.Variable(0.0)

    @tf.function
    def run(iterator: Any, count: tf.Tensor) -> None:
        for _ in tf.range(count):
            x, y, *_ = next(iterator)
            tf.debugging.assert_less(y, tf.cast(3, y.dtype), message="a label of the model's")
            weight.assign_add(tf.reduce_sum(tf.cast(x, tf.float32)))

    run(iter(dataset), tf.constant(steps))


def raised(dataset: tf.data.Dataset, steps: int = 100) -> Exception:
    with pytest.raises(tf.errors.OpError) as caught:
        loop(dataset, steps)
    return caught.value


def test_an_error_in_mid_run_names_the_example() -> None:
    data = build(images, classes=3)  # the length is known: nothing is read before
    error = input_error(raised(data.train), data)
    assert error is not None
    assert str(error).splitlines()[0] == (
        f"example {CUT} of the training dataset could not be read: jpeg::Uncompress failed. "
        "Invalid JPEG data or crop window."
    )
    assert error.where == "dataset"
    assert "dataset.on_error=skip" in str(error.remedy)


def test_an_error_in_the_validation_names_it() -> None:
    good = [row for row in range(SIZE) if row not in (CUT, EMPTY, TEXT)]
    data = build(lambda: (images(good), images()), classes=3)
    assert data.validation is not None
    error = input_error(raised(data.validation), data)
    assert error is not None
    assert error.message.startswith(f"example {CUT} of the validation dataset")


def test_an_error_that_does_not_come_again_is_told_without_a_place(tmp_path: Path) -> None:
    files = [records(tmp_path / "a", 0)]
    data = build(
        lambda: record_dataset(files).apply(tf.data.experimental.assert_cardinality(10)), classes=3
    )
    whole = Path(files[0]).read_bytes()
    Path(files[0]).write_bytes(whole[: len(whole) // 2 + 15])
    failure = raised(data.train)
    Path(files[0]).write_bytes(whole)
    error = input_error(failure, data)
    assert error is not None
    assert error.message.startswith("a batch of dataset python could not be read: truncated record")
    assert "write the file again" in str(error.remedy)


def test_what_the_model_refuses_is_not_the_input_s() -> None:
    x, y = values()
    y[9] = 7
    data = build(lambda: slices(x, y), classes=3)
    error = raised(data.train)
    assert "IteratorGetNext" in str(error)  # in the words of the assertion
    assert input_error(error, data) is None
    assert input_error(ValueError("IteratorGetNext"), data) is None


def test_shapes_that_differ_are_no_broken_example() -> None:
    def load() -> tf.data.Dataset:
        lengths = tf.data.Dataset.from_tensor_slices(([3, 3, 4, 3], [0, 1, 2, 0]))
        return lengths.map(lambda length, y: (tf.zeros([length]), y))

    data = build(load, classes=3)
    error = input_error(raised(data.train), data)
    assert error is not None
    assert error.message.startswith("a batch of dataset python could not be read: Cannot ")
    assert error.remedy == "give all examples one shape: resize or pad them in the function"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Graph execution error:\n\nDetected at node DecodeJpeg defined at (most recent call "
            "last):\n<stack traces unavailable>\n2 root error(s) found.\n  (0) INVALID_ARGUMENT:  "
            "Input is empty.\n\t [[{{node DecodeJpeg}}]]",
            "Input is empty.",
        ),
        (
            "{{function_node __wrapped__X}} a.png; No such file [Op:IteratorGetNext] name: ",
            "a.png; No such file",
        ),
        ("x" * 500, "x" * 200 + "..."),
        ("", "NotFoundError"),
    ],
)
def test_tensorflow_s_own_words(text: str, expected: str) -> None:
    assert words(tf.errors.NotFoundError(None, None, text)) == expected


def test_without_anything_broken_skip_changes_nothing() -> None:
    skipping, failing = skip(lambda: slices(*values())), build(lambda: slices(*values()))
    assert stream(skipping.train, 13) == stream(failing.train, 13)
    for name in ("train_examples", "steps_per_epoch", "classes", "element_spec", "bad_rows"):
        assert getattr(skipping, name) == getattr(failing, name)
    assert (skipping.warnings, skipping.bad_row_names) == ((), ())


def test_a_dataset_that_can_be_read_once_only() -> None:
    x, y = values()
    elements = iter(zip(x, y, strict=True))

    def load() -> tf.data.Dataset:
        signature = (tf.TensorSpec((1,), tf.float32), tf.TensorSpec((), tf.int64))
        return tf.data.Dataset.from_generator(lambda: elements, output_signature=signature)

    data = build(load)
    with pytest.raises(ConfigurationError, match="ended, where it should begin again"):
        first_batch(data)
    error = input_error(raised(data.train), data)
    assert error is not None
    assert "ended" in error.message


def test_the_first_batch() -> None:
    data = build(lambda: slices(*values()))
    np.testing.assert_array_equal(first_batch(data)[0], next(iter(data.train))[0])
    broken = build(images, classes=3, batch_size=12)
    with pytest.raises(ConfigurationError, match=f"example {CUT} of the training dataset"):
        first_batch(broken)


def test_looking_for_the_example_ends_in_time() -> None:
    def slow() -> Iterator[tuple[np.ndarray, int]]:
        import time

        while True:
            time.sleep(0.01)
            yield np.float32([1]), 1

    signature = (tf.TensorSpec((1,), tf.float32), tf.TensorSpec((), tf.int32))
    dataset = tf.data.Dataset.from_generator(slow, output_signature=signature)
    source = scan.Source(dataset, "training", batched=False)
    assert scan.first_unreadable([source], seconds=0.3) is None
