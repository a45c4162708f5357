"""Values and arrays as one message, and back."""

import json

import ml_dtypes
import numpy as np
import pytest

from mpt import packing

VALUE = {
    "text": "ä\n",
    "numbers": [1, -2.5, True, None],
    "nested": {"empty": [], "array": np.arange(6, dtype="int16").reshape(2, 3)},
    "half": np.asarray([1.5, -0.0, np.inf], ml_dtypes.bfloat16),
    "big endian": np.asarray([1, 2], ">i4"),
    "scalar": np.asarray(3.25),
    "strided": np.arange(10.0)[::3],
}


def test_what_comes_back_is_what_was_sent():
    back = packing.loads(packing.dumps(VALUE))
    assert back["text"] == VALUE["text"]
    assert back["numbers"] == VALUE["numbers"]
    assert back["nested"]["empty"] == []
    for name in ("half", "big endian", "scalar", "strided"):
        np.testing.assert_array_equal(back[name], VALUE[name])
        assert back[name].dtype == VALUE[name].dtype.newbyteorder("=")
        assert back[name].shape == VALUE[name].shape
    np.testing.assert_array_equal(back["nested"]["array"], VALUE["nested"]["array"])
    assert not back["half"].flags.writeable


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"$array": 0}, np.asarray(["a"]), np.asarray([object()])]
)
def test_what_cannot_be_sent_is_refused(value):
    with pytest.raises(TypeError):
        packing.dumps(value)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b'{"value": {"$array": 7}, "arrays": []}',
        b'{"value": 1, "arrays": [{"dtype": "object", "shape": [1]}]}',
        b'{"value": 1, "arrays": [{"dtype": "int8", "shape": [-1]}]}',
        b'{"value": 1, "arrays": [{"dtype": "int8", "shape": [1000]}]}',
        json.dumps({"value": 1, "arrays": [{"dtype": "int8", "shape": [1] * 40}]}).encode(),
        b"[" * 100000,
    ],
)
def test_what_is_no_message_is_refused(header):
    with pytest.raises(ValueError, match=r"."):
        packing.loads(len(header).to_bytes(packing.LENGTH_BYTES, "little") + header)
