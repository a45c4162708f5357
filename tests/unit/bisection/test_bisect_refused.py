"""Policies that a bisection has something to find in."""

from types import SimpleNamespace

import pytest

from mpt.bisection.bisect import _check
from mpt.errors import ConfigurationError


def job(run_dir, policy, *rules):
    overrides = [{"match": "*", "policy": rule} for rule in rules]
    precision = {"policy": policy, "head": "float32", "overrides": overrides}
    return SimpleNamespace(config={"precision": precision}, run_dir=str(run_dir))


@pytest.mark.parametrize(
    "asked", [("auto",), ("mixed_float16",), ("float8",), ("float32", "float8")]
)
def test_reduced_precision_is_looked_into(asked, tmp_path):
    _check(job(tmp_path, *asked))
    (tmp_path / "bisect.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="a result in this folder already"):
        _check(job(tmp_path, *asked))


def test_float32_leaves_nothing_to_find(tmp_path):
    with pytest.raises(ConfigurationError, match="float32 leaves no layer in reduced"):
        _check(job(tmp_path, "float32"))
