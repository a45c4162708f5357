"""Windows of text: bytes, and ids as nanoGPT writes them."""

import numpy as np
import pytest

from mpt.data import text
from mpt.errors import ConfigurationError


def built(path, **more):
    return text.build(**{"path": str(path), "batch_size": 2, "seed": 0, "length": 4, **more})


def all_rows(dataset, batches):
    parts = [(x.numpy(), y.numpy()) for x, y in dataset.take(batches)]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


SENTENCE = "Größe 12, naïve, ok; the quick brown fox"


@pytest.fixture
def sentence(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(SENTENCE)
    return file


def test_bytes_of_a_text(sentence):
    data = built(sentence, validation_fraction=0, shuffle=False)
    raw = SENTENCE.encode()
    rows = (len(raw) - 1) // 4
    assert (data.train_examples, data.classes, data.shape) == (rows, 256, (4,))
    x, y = all_rows(data.train, rows // 2)
    assert x.dtype == y.dtype == np.int32
    assert bytes(x.ravel().astype(np.uint8)) == raw[: x.size]
    assert bytes(y.ravel().astype(np.uint8)) == raw[1 : x.size + 1]
    assert data.validation is None


def test_the_end_is_held_out(sentence):
    data = built(sentence, validation_fraction=0.4)
    raw = SENTENCE.encode()
    end = len(raw) - int(len(raw) * 0.4)
    assert data.train_examples == (end - 1) // 4
    assert data.validation_source == "the last 0.4 of the text"
    x, _ = all_rows(data.validation, data.validation_batches)
    assert bytes(x.ravel().astype(np.uint8)) == raw[end : end + x.size]


def test_every_window_is_seen_once_an_epoch_in_another_order(sentence):
    data = built(sentence, validation_fraction=0, batch_size=1)
    epochs = [
        all_rows(data.train.skip(data.steps_per_epoch * i), data.steps_per_epoch)[0] for i in (0, 1)
    ]
    assert not np.array_equal(*epochs)
    ordered = [sorted(map(tuple, epoch)) for epoch in epochs]
    assert ordered[0] == ordered[1]
    assert len(set(ordered[0])) == data.train_examples


@pytest.mark.parametrize("kind", ["uint16", "uint32"])
def test_ids_as_nanogpt_writes_them(tmp_path, kind):
    ids = np.arange(40) * 7
    ids[:32].astype(kind).tofile(tmp_path / "train.bin")
    ids[32:].astype(kind).tofile(tmp_path / "val.bin")
    data = built(tmp_path, ids=kind, shuffle=False)
    assert (data.classes, data.train_examples, data.validation_examples) == (7 * 39 + 1, 7, 1)
    assert data.validation_source == "val.bin"
    x, y = all_rows(data.train, 3)
    np.testing.assert_array_equal(x.ravel(), ids[:24])
    np.testing.assert_array_equal(y.ravel(), ids[1:25])
    x, y = all_rows(data.validation, 1)
    np.testing.assert_array_equal(y, [ids[33:37]])
    assert built(tmp_path, ids=kind, vocabulary=500).classes == 500
    alone = built(tmp_path / "train.bin", ids=kind, validation_fraction=0.2)
    assert (alone.train_examples, alone.validation_examples) == (6, 1)


def test_a_file_that_is_too_large_for_memory_is_mapped(tmp_path, monkeypatch):
    ids = np.random.default_rng(0).integers(0, 1000, 4001).astype("uint16")
    ids.tofile(tmp_path / "train.bin")
    settings = {"validation_fraction": 0.1, "seed": 3}
    read = all_rows(built(tmp_path, **settings).train, 20)
    monkeypatch.setattr("mpt.data.gathering.MEMORY_MAP_ABOVE", 1000)
    mapped = all_rows(built(tmp_path, **settings).train, 20)
    for one, other in zip(read, mapped, strict=True):
        np.testing.assert_array_equal(one, other)
        assert other.dtype == np.int32


def test_it_goes_to_a_place_at_once(sentence):
    data = built(sentence, validation_fraction=0)
    for one, other in zip(data.train.skip(11).take(3), data.at(11).take(3), strict=True):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("files", "words", "where", "says"),
    [
        ({}, {}, "dataset.path", "train.bin"),
        ({"a.txt": b""}, {"path": "a.txt"}, "dataset.path", "empty"),
        ({}, {"path": "none.txt"}, "dataset.path", "no file"),
        ({"a.txt": b"abcd"}, {"path": "a.txt"}, "dataset.length", "4 tokens"),
        ({"a.txt": b"abcdefgh"}, {"path": "a.txt"}, "dataset.length", "the end"),
        ({"train.bin": b"abc"}, {}, "dataset.path", "no whole ids"),
        ({"train.bin": bytes(100)}, {"ids": "int8"}, "dataset.ids", "uint16"),
        ({"train.bin": bytes(100) + b"\xff\x00"}, {"vocabulary": 50}, "dataset.vocabulary", "255"),
        ({"a.txt": b"abc" * 50}, {"path": "a.txt", "vocabulary": 99}, "dataset.vocabulary", "99"),
        ({"a.txt": b"abc" * 50}, {"path": "a.txt", "vocabulary": 0}, "dataset.vocabulary", "0"),
        ({"a.txt": b"abc" * 50}, {"path": "a.txt", "length": 0}, "dataset.length", "0"),
        ({"a.txt": b"abc" * 50}, {"path": "a.txt", "validation_fraction": 1}, None, "share"),
    ],
)
def test_bad_input(tmp_path, files, words, where, says):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        built(tmp_path / words.pop("path", ""), **words)
    assert error.value.where == where or where is None
    assert says in str(error.value)
