import hashlib

import pytest

from mpt.data.folders import fingerprint, parts_of
from mpt.errors import ConfigurationError


def test_a_folder_alone_is_to_train_on(tmp_path):
    (tmp_path / "val").mkdir()  # a class of that name
    assert parts_of(tmp_path) == (tmp_path, None)


def test_a_folder_of_both(tmp_path):
    for name in ("train", "test", "validation"):
        (tmp_path / name).mkdir()
    assert parts_of(tmp_path) == (tmp_path / "train", tmp_path / "validation")
    (tmp_path / "val").mkdir()
    assert parts_of(tmp_path) == (tmp_path / "train", tmp_path / "val"), "the first of its names"


def test_no_folder(tmp_path):
    with pytest.raises(ConfigurationError, match="is not a folder"):
        parts_of(tmp_path / "absent")


def test_a_fingerprint_is_of_what_is_said_of_each_file_of_its_size_and_of_the_parts(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"defgh")
    found = fingerprint([("one 0", one)], [("two 1", two)])
    assert found == hashlib.sha256(b"one 0 3\n\0two 1 5\n\0").hexdigest()
    assert fingerprint([("one 0", one), ("two 1", two)]) != found
    two.write_bytes(b"d")
    assert fingerprint([("one 0", one)], [("two 1", two)]) != found
