"""A checkpoint as a file: it comes back as it was, or is known to be broken."""

import json
import math
import os
import random

import ml_dtypes
import numpy as np
import pytest

from mpt.checkpoint import BrokenCheckpoint, read, read_header, write
from mpt.checkpoint import file as checkpoint_file
from mpt.checkpoint.file import LENGTH_BYTES, MAGIC
from mpt.packing import DTYPES

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
SMALL = ("int4", "uint4")


def array_of(name, shape):
    """Every bit pattern that fits, NaN and infinities with them."""
    dtype = np.dtype(name)
    size = math.prod(shape)
    rng = np.random.default_rng(len(name) + size)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if name in SMALL:
        return rng.integers(0, 7, shape).astype(dtype)
    content = rng.integers(0, 256, size * dtype.itemsize, dtype=np.uint8)
    return content.view(dtype).reshape(shape)


def same(one, other):
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "step-00000007.ckpt"


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_and_shape_come_back_to_the_bit(file, dtype, shape):
    array = array_of(dtype, shape)
    write(file, {"a": array, "b": [array, array]})
    found = read(file)
    assert same(found["a"], array)
    assert same(found["b"][1], array)
    assert not found["a"].flags.writeable


def test_the_dtypes_are_those_of_keras():
    keras = {"bfloat16", "float16", "float32", "float64", *FLOAT8, *SMALL, "bool", "int8", "uint64"}
    assert keras <= set(DTYPES)
    assert np.dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)


def test_plain_values_come_back_nested_as_they_were(file):
    state = {
        "none": None,
        "words": ["", "a\nb", "snowman \N{SNOWMAN}", "$array"],
        "numbers": [0, -1, 2**62, 1.5, 0.1, -0.0, 1e308, 5e-324],
        "truth": {"yes": True, "no": False},
        "empty": {"mapping": {}, "list": []},
        "deep": {"a": [{"b": [[np.float32([1, 2])]]}]},
    }
    write(file, state)
    found = read(file)
    assert found.pop("deep")["a"][0]["b"][0][0].tolist() == [1, 2]
    del state["deep"]
    assert found == state
    assert math.copysign(1, found["numbers"][5]) == -1
    assert isinstance(found["truth"]["yes"], bool)


def test_numbers_that_are_not_finite_come_back(file):
    write(file, {"values": [math.nan, math.inf, -math.inf]})
    nan, high, low = read(file)["values"]
    assert math.isnan(nan)
    assert (high, low) == (math.inf, -math.inf)


def test_tuples_come_back_as_lists(file):
    write(file, {"pair": (1, (2, 3))})
    assert read(file) == {"pair": [1, [2, 3]]}


@pytest.mark.parametrize("order", ["F", "strided", "big-endian"])
def test_arrays_laid_out_otherwise_come_back_by_their_values(file, order):
    array = np.arange(12, dtype="float32").reshape(3, 4)
    given = {
        "F": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "big-endian": array.astype(">f4"),
    }[order]
    write(file, {"a": given})
    found = read(file)["a"]
    assert found.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([object()]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("a", "f4")]),
        {1: "a number for a key"},
        {"$array": 0},
        {"a set"},
        b"bytes",
        np.float32(1.0),
        1j,
        lambda: None,
    ],
)
def test_what_it_cannot_hold_is_refused_and_nothing_is_written(file, value):
    write(file, {"before": 1})
    with pytest.raises(TypeError):
        write(file, {"value": [value]})
    assert read(file) == {"before": 1}
    assert os.listdir(file.parent) == [file.name]


class TestHeader:
    def test_it_says_what_it_was_told_without_the_arrays(self, file):
        about = {"step": 7, "healthy": True, "best": False}
        write(file, {"a": np.zeros(10_000)}, about)
        assert read_header(file) == about
        content = file.read_bytes()
        file.write_bytes(content[:2000])  # the arrays are cut off
        assert read_header(file) == about
        with pytest.raises(BrokenCheckpoint, match="checksum"):
            read(file)

    def test_nothing_told_is_an_empty_mapping(self, file):
        write(file, {})
        assert read_header(file) == {}
        assert read(file) == {}

    def test_the_layout_is_the_documented_one(self, file):
        write(file, {"a": np.uint8([1, 2, 3]), "b": np.uint16([4])}, {"step": 1})
        content = file.read_bytes()
        start = len(MAGIC) + LENGTH_BYTES
        length = int.from_bytes(content[len(MAGIC) : start], "little")
        assert content.startswith(b"mpt-checkpoint-1")
        assert json.loads(content[start : start + length]) == {
            "about": {"step": 1},
            "state": {"a": {"$array": 0}, "b": {"$array": 1}},
            "arrays": [{"dtype": "uint8", "shape": [3]}, {"dtype": "uint16", "shape": [1]}],
        }
        assert content[start + length : -32] == bytes([1, 2, 3, 4, 0])


class TestBroken:
    @pytest.fixture
    def content(self, file):
        write(file, {"a": np.arange(50, dtype="float32"), "b": [1, "two"]}, {"step": 3})
        return file.read_bytes()

    def test_one_that_was_cut_short_anywhere(self, file, content):
        for length in range(len(content)):
            file.write_bytes(content[:length])
            with pytest.raises(BrokenCheckpoint):
                read(file)

    def test_one_byte_changed_anywhere(self, file, content):
        dice = random.Random(0)
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= dice.randrange(1, 256)
            file.write_bytes(changed)
            with pytest.raises(BrokenCheckpoint):
                read(file)

    def test_one_with_more_behind_it(self, file, content):
        file.write_bytes(content + b"\0")
        with pytest.raises(BrokenCheckpoint):
            read(file)

    @pytest.mark.parametrize("kind", ["missing", "empty", "folder", "pipe", "text", "dangling"])
    def test_what_is_no_checkpoint_at_all(self, file, kind):
        if kind == "empty":
            file.touch()
        elif kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "text":
            file.write_text("hello " * 100)
        elif kind == "dangling":
            file.symlink_to("nowhere")
        for reading in (read, read_header):
            with pytest.raises(BrokenCheckpoint):
                reading(file)


class TestAtomicity:
    """What was there before stays, whichever call fails; nothing is left beside it."""

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failing_call(self, file, monkeypatch, call):
        write(file, {"a": 1})

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint_file.os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            write(file, {"a": 2})
        monkeypatch.undo()
        assert read(file) == {"a": 1}
        assert os.listdir(file.parent) == [file.name]

    def test_an_interrupt_while_it_is_written(self, file, monkeypatch):
        write(file, {"a": 1})

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint_file.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(file, {"a": 2})
        assert read(file) == {"a": 1}
        assert os.listdir(file.parent) == [file.name]

    def test_the_content_is_on_the_disk_before_the_name_is(self, file, monkeypatch):
        calls = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(
            checkpoint_file.os,
            "fsync",
            lambda handle: (calls.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle)),
        )
        monkeypatch.setattr(
            checkpoint_file.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))
        )
        write(file, {"a": 1})
        folder = str(file.parent)
        assert calls == [f"{folder}/.partial-{file.name}", "replace", folder]

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            write(tmp_path / "absent" / "x.ckpt", {"a": 1})
