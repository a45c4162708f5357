"""Whatever lies where a checkpoint should: what was written, or a `BrokenCheckpoint`."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import damaged, examples, mutilated, plain

from mpt.checkpoint import BrokenCheckpoint, Checkpoints, read, read_header, write
from mpt.checkpoint.file import LENGTH_BYTES, MAGIC
from mpt.packing import DTYPES

STATE = {
    "variables": {"values": [np.arange(6, dtype="float32").reshape(2, 3), np.array(3)]},
    "training": {"step": 10, "final": {"train/loss": 0.5}, "pending": {}, "text": "a\nb"},
    "bytes": np.zeros((0, 5), "uint8"),
}
ABOUT = {"step": 10, "healthy": True, "best": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def whole(folder):
    write(folder / "whole", STATE, ABOUT)
    return (folder / "whole").read_bytes()


def sealed(header, arrays, length=None):
    """A file of these parts with the right checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    content = MAGIC + size.to_bytes(LENGTH_BYTES, "little") + text + arrays
    return content + hashlib.sha256(content).digest()


def parts(whole):
    """The header of a file, and the bytes of its arrays."""
    start = len(MAGIC) + LENGTH_BYTES
    end = start + int.from_bytes(whole[len(MAGIC) : start], "little")
    return json.loads(whole[start:end]), whole[end:-32]


def is_plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(child) for key, child in value.items())
    if isinstance(value, list):
        return all(is_plain(child) for child in value)
    if isinstance(value, np.ndarray):
        return value.dtype.name in DTYPES and not value.flags.writeable
    return value is None or isinstance(value, bool | int | float | str)


@pytest.fixture(scope="module")
def read_any(folder):
    """Reads a file of these bytes; None where it is broken."""

    def call(content):
        file = folder / "any"
        file.write_bytes(content)
        for reading in (read_header, read):
            try:
                found = reading(file)
            except BrokenCheckpoint as error:
                found = None
                said = str(error)
                assert said.strip() == said.splitlines()[0]
            assert found is None or isinstance(found, dict)
        return found

    return call


@examples(150)
@given(st.data())
def test_damaged_bytes(read_any, whole, data):
    content = data.draw(damaged(whole))
    found = read_any(content)
    assert (found is None) == (content != whole)


@examples(100)
@given(st.binary(max_size=200))
@example(b"")
@example(MAGIC)
@example(MAGIC + b"\xff" * 8)
@example(MAGIC + (2**28).to_bytes(8, "little"))
def test_bytes_of_anything(read_any, content):
    assert read_any(content) is None


@examples(150)
@given(st.data())
def test_headers_that_say_something_else_under_a_right_checksum(read_any, whole, data):
    header, arrays = parts(whole)
    dtypes = st.sampled_from((*DTYPES, "object", "str", "V8", "datetime64[s]", "float128"))
    header = data.draw(mutilated(header, plain | dtypes))
    found = read_any(sealed(header, data.draw(st.just(arrays) | st.binary(max_size=64))))
    assert found is None or is_plain(found)


@examples(100)
@given(plain, st.binary(max_size=64))
@example({"about": {}, "state": {"$array": 0}, "arrays": []}, b"")
@example({"about": {}, "state": {"$array": -1}, "arrays": [{"dtype": "bool", "shape": []}]}, b"a")
@example({"about": {}, "state": {"$array": "a"}, "arrays": []}, b"")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": [2**62, 0]}]}, b"")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": [-1, -1]}]}, b"a")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": [True]}]}, b"a")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": [1.0]}]}, b"a")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": "1"}]}, b"a")
@example({"about": {}, "state": {}, "arrays": [{"dtype": ["int8"], "shape": [1]}]}, b"a")
@example({"about": {}, "state": {}, "arrays": [{"dtype": "int8", "shape": [1] * 40}]}, b"a")
@example({"about": {}, "state": {}, "arrays": {"dtype": "int8"}}, b"")
@example({"about": [], "state": [], "arrays": []}, b"")
def test_headers_of_anything(read_any, header, arrays):
    found = read_any(sealed(header, arrays))
    assert found is None or is_plain(found)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"about": {}, "arrays": [], "state": ' + b'{"a":' * 5000 + b"{}" + b"}" * 5000 + b"}",
        b'{"about": {}, "arrays": [], "state": {"a": ' + b"9" * 5000 + b"}}",
        b'{"about": {}, "arrays": [], "state": {"a": 1e999999}}',
        b'{"about": {}, "arrays": [], "state": {"\\ud800": 1}}',
        b'{"about": {}, "state": {}, "arrays": ['
        + b'{"dtype": "int8", "shape": ['
        + b"9" * 4000
        + b", "
        + b"9" * 4000
        + b"]}]}",
        b"\xff\xfe{}",
        b"",
    ],
)
def test_headers_that_are_hard_to_read(read_any, text):
    found = read_any(sealed(text, b""))
    assert found is None or is_plain(found)


@examples(100)
@given(st.integers(0, 2**64 - 1))
def test_lengths_that_are_not_the_headers(read_any, whole, length):
    header, arrays = parts(whole)
    if length != len(json.dumps(header)):
        assert read_any(sealed(header, arrays, length)) is None


@examples(20)
@given(st.data())
def test_a_store_finds_the_last_one_that_is_whole(tmp_path_factory, data):
    store = Checkpoints(tmp_path_factory.mktemp("store"), keep=4)
    for step in (10, 20, 30, 40):
        store.save(step, {"at": step})
    broken = data.draw(st.sets(st.sampled_from((10, 20, 30, 40))))
    for step in broken:
        path = store.steps()[step]
        content = path.read_bytes()
        changed = data.draw(damaged(content))
        path.write_bytes(changed if changed != content else content[:-1])
    kept = sorted({10, 20, 30, 40} - broken)
    if not kept:
        with pytest.raises(BrokenCheckpoint):
            store.newest()
        return
    found = store.newest()
    assert (found.step, found.state) == (kept[-1], {"at": kept[-1]})
    assert {path.name for path, _ in found.broken} == {
        f"step-000000{step}.ckpt" for step in broken if step > kept[-1]
    }
