"""Images in TFRecord shards: what is read, in which order, and broken files."""

from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from shards_of_images import record, write

from mpt.data import tfrecord
from mpt.errors import ConfigurationError


@pytest.fixture
def shards(tmp_path):
    """Three shards of 8, 9 and 10 training images, one of 5 for validation; shade 5 x number."""
    numbers = iter(range(27))
    for shard, count in enumerate((8, 9, 10)):
        content = [record(1 + number % 4, 5 * number) for number in islice(numbers, count)]
        write(tmp_path / f"train-{shard:05d}-of-00003", content)
    write(tmp_path / "validation-00000-of-00001", [record(1 + i % 4, 50 * i) for i in range(5)])
    return tmp_path


def built(path, **more):
    settings = {"batch_size": 4, "seed": 0, "size": 8, "classes": 4, **more}
    return tfrecord.build(path=str(path), **settings)


def batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def shades(found):
    return np.concatenate([np.round(x.mean((1, 2, 3)) * 51).astype(int) for x, _ in found])


def test_shards_of_images(shards):
    data = built(shards)
    assert (data.train_examples, data.validation_examples, data.steps_per_epoch) == (27, 5, 6)
    assert (data.shape, data.classes, data.validation_source) == ((8, 8, 3), 4, "validation-*")
    found = batches(data.train, 6)
    numbers = shades(found)
    assert len(set(numbers)) == 24
    assert set(numbers) <= set(range(27))
    assert np.array_equal(np.concatenate([y for _, y in found]), numbers % 4)
    held_out = batches(data.validation, 4)
    assert [len(y) for _, y in held_out] == [4, 1, 4, 1]
    assert list(shades(held_out)[:5]) == [0, 10, 20, 30, 40]
    plain = shades(batches(built(shards, shuffle=False).train, 7))
    assert list(plain) == [*range(24), *range(4)]


def test_the_order_is_that_of_the_seed_and_the_epoch(shards):
    one, again = (shades(batches(built(shards).train, 12)) for _ in range(2))
    assert list(one) == list(again)
    assert list(one[:24]) != list(one[24:])
    assert list(one) != list(shades(batches(built(shards, seed=1).train, 12)))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_order_does_not_hang_on_the_global_seed(shards, seed):
    expected = shades(batches(built(shards).train, 12))
    tf.random.set_seed(seed)  # as a run does
    assert list(shades(batches(built(shards).train, 12))) == list(expected)


@pytest.mark.parametrize(
    "position", [0, 6, 13, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 7, 20))]
)
def test_it_goes_to_a_place(shards, position):
    settings = {"mixup": 0.3, "cutmix": 1.0, "randaugment": 1, "crop_area": 0.5}
    unbroken = batches(built(shards, **settings).train, 23)[position : position + 3]
    there = batches(built(shards, **settings).at(position), 3)
    for (x, y), (x2, y2) in zip(unbroken, there, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


@pytest.mark.parametrize("lost", [1, 3, 5, 20, 60])
def test_a_truncated_shard(shards, lost):
    file = shards / "train-00001-of-00003"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(ConfigurationError, match="truncated after 8 records"):
        built(shards)
    data = built(shards, on_error="skip")
    assert (data.train_examples, data.bad_rows) == (26, 1)
    assert data.bad_row_names == ("train-00001-of-00003 is truncated after 8 records",)
    assert len(batches(data.train, 12)) == 12


@pytest.mark.parametrize("label", [0, 5])
def test_a_label_out_of_range_ends_the_run(shards, label):
    write(shards / "train-00009-of-00003", [record(label, 9)] * 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="label outside"):
        batches(built(shards).train, 7)


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ({"path": "absent"}, "dataset.path", "no records"),
        ({"batch_size": 28}, "batch_size", "28"),
        ({"size": -1}, "dataset.size", "1 or more"),
    ],
)
def test_bad_input(shards, words, where, says):
    with pytest.raises(ConfigurationError) as error:
        built(shards / words.pop("path", ""), **words)
    assert error.value.where == where
    assert says in str(error.value)
