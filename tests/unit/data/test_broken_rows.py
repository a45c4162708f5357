"""Broken rows of arrays: left out before the split, counted and named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpt.data import arrays, gathering, idx
from mpt.data.examples import Data, Examples
from mpt.data.pipeline import from_arrays
from mpt.errors import ConfigurationError


def rows(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """x float32 (count, 2) holds the row's number, y its class of four."""
    x = np.repeat(np.arange(count, dtype=np.float32)[:, np.newaxis], 2, axis=1)
    return x, np.arange(count, dtype=np.int64) % 4


def build(x: np.ndarray, y: np.ndarray, *held_out: np.ndarray, **changes: Any) -> Data:
    arguments: dict[str, Any] = {
        "name": "rows",
        "batch_size": 4,
        "seed": 0,
        "validation_fraction": None if held_out else 0.2,
        "shuffle": True,
        "classes": None,
        "on_error": "skip",
    }
    others = [Examples(*held_out, "data.npz (_val)")] if held_out else []
    return from_arrays(Examples(x, y, "/some/data.npz"), *others, **{**arguments, **changes})


def seen(data: Data) -> set[int]:
    """The rows of some epochs of training, and of the validation."""
    batches = list(data.train.take(30 * data.steps_per_epoch).as_numpy_iterator())
    if data.validation is not None:
        batches += data.validation.take(data.validation_batches).as_numpy_iterator()
    return {int(row) for x, _ in batches for row in x[:, 0]}


def same_batches(one: Data, other: Data) -> None:
    for part in ("train", "validation"):
        pairs = zip(getattr(one, part).take(25), getattr(other, part).take(25), strict=True)
        for (x, y), (x_other, y_other) in pairs:
            np.testing.assert_array_equal(x, x_other)
            np.testing.assert_array_equal(y, y_other)


def test_broken_rows_of_every_kind_are_left_out_and_named() -> None:
    x, y = rows()
    x[3, 1], x[17, 0], x[18, 0] = np.nan, np.inf, -np.inf
    y[5], y[9], y[17] = 4, -1, 99
    data = build(x, y, classes=4)
    bad = {3, 5, 9, 17, 18}
    assert seen(data) == set(range(40)) - bad
    assert (data.train_examples, data.validation_examples) == (28, 7)
    assert data.bad_rows == 5
    assert data.bad_row_names == (
        "row 3 of data.npz (x): NaN",
        "row 5 of data.npz (y): label 4",
        "row 9 of data.npz (y): label -1",
        "row 17 of data.npz (x): infinity",
        "row 18 of data.npz (x): infinity",
    )
    (warning,) = data.warnings
    assert warning == (
        "5 of 40 rows (12.5%) are left out: row 3 of data.npz (x): NaN; "
        "row 5 of data.npz (y): label 4; row 9 of data.npz (y): label -1; ... and 2 more"
    )


def test_the_split_is_that_of_the_good_rows_alone() -> None:
    x, y = rows()
    good = np.delete(np.arange(40), [0, 12, 13])
    expected = build(x[good], y[good])
    x[[0, 12, 13]] = np.nan
    same_batches(build(x, y), expected)


def test_without_broken_rows_skip_changes_nothing() -> None:
    skipping, failing = build(*rows()), build(*rows(), on_error="fail")
    same_batches(skipping, failing)
    assert skipping.fingerprint == failing.fingerprint
    assert (skipping.bad_rows, skipping.bad_row_names, skipping.warnings) == (0, (), ())


@pytest.mark.parametrize(
    ("x_rows", "y_rows", "name"),
    [
        (40, 37, "row 37 of data.npz (x): no label"),
        (37, 40, "row 37 of data.npz (y): no example"),
    ],
)
def test_rows_without_a_partner(x_rows: int, y_rows: int, name: str) -> None:
    x, y = rows()
    data = build(x[:x_rows], y[:y_rows])
    assert seen(data) == set(range(37))
    assert data.bad_rows == 3
    assert data.bad_row_names[0] == name
    assert data.fingerprint != build(x[:37], y[:37]).fingerprint


@pytest.mark.parametrize("part", ["x", "y"])
def test_numbers_beyond_32_bits(part: str) -> None:
    x, y = np.arange(40, dtype=np.int64)[:, np.newaxis], np.arange(40) % 4
    {"x": x, "y": y}[part][7] = 2**40
    data = build(x, y)
    assert seen(data) == set(range(40)) - {7}
    assert data.classes == 4
    assert data.bad_row_names == (f"row 7 of data.npz ({part}): a number beyond 32 bits",)


def test_nan_in_the_targets_of_a_regression() -> None:
    x, y = rows()
    targets = y.astype(np.float64)
    targets[11] = 1e300
    data = build(x, targets)
    assert seen(data) == set(range(40)) - {11}
    assert data.bad_row_names == ("row 11 of data.npz (y): infinity",)


def test_validation_rows_are_left_out_too() -> None:
    x, y = rows()
    x_val, y_val = x[:10] + 100, y[:10].copy()
    x_val[2], y_val[3] = np.nan, 8
    data = build(x, y, x_val, y_val, classes=4)
    assert data.validation_examples == 8
    assert seen(data) == {*range(40), *range(100, 110)} - {102, 103}
    assert data.bad_row_names == (
        "row 2 of data.npz (_val) (x): NaN",
        "row 3 of data.npz (_val) (y): label 8",
    )
    unused = build(x, y, x_val, y_val, classes=4, validation_fraction=0.2)
    assert unused.bad_rows == 0


def test_the_first_twenty_are_named_and_the_others_counted() -> None:
    x, y = rows(100)
    x[::4] = np.nan
    data = build(x, y)
    assert data.bad_rows == 25
    assert len(data.bad_row_names) == 21
    assert data.bad_row_names[19:] == ("row 76 of data.npz (x): NaN", "... and 5 more")
    assert data.warnings[0].startswith("25 of 100 rows (25%) are left out: ")


def test_the_fingerprint_tells_of_the_rows_left_out() -> None:
    x, y = rows()
    y[5] = 4
    kept, left_out = build(x, y), build(x, y, classes=4)
    assert (kept.bad_rows, left_out.bad_rows) == (0, 1)
    assert kept.fingerprint != left_out.fingerprint


def test_rows_left_out_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MEMORY_MAP_ABOVE", 1)
    monkeypatch.setattr("mpt.data.broken.CHUNK_BYTES", 24)  # several chunks
    x, y = rows()
    x[[0, 13, 39]] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    data = arrays.build(path=str(tmp_path), batch_size=4, seed=0, on_error="skip")
    assert seen(data) == set(range(40)) - {0, 13, 39}
    assert data.bad_row_names[0] == "row 0 of x.npy: NaN"


def test_names_of_files(tmp_path: Path) -> None:
    x, y = rows()
    x[1], y[2] = np.nan, 9
    np.save(tmp_path / "images.npy", x)
    np.save(tmp_path / "answers.npy", y)
    np.savez(tmp_path / "data.npz", x=x, y=y, x_val=x, y_val=y)
    settings: dict[str, Any] = {"batch_size": 4, "seed": 0, "on_error": "skip", "classes": 4}
    pair = arrays.build(
        path=str(tmp_path / "images.npy"), labels=str(tmp_path / "answers.npy"), **settings
    )
    assert pair.bad_row_names == ("row 1 of images.npy: NaN", "row 2 of answers.npy: label 9")
    archive = arrays.build(path=str(tmp_path / "data.npz"), **settings)
    assert archive.bad_row_names == (
        "row 1 of data.npz (x): NaN",
        "row 2 of data.npz (y): label 9",
        "row 1 of data.npz (x_val): NaN",
        "row 2 of data.npz (y_val): label 9",
    )


def test_labels_of_idx_files(tmp_path: Path) -> None:
    for name, rank in idx.FILES.values():
        shape = [20, *[2] * (rank - 1)]
        content = np.zeros(shape, np.uint8)
        if name.startswith("train-labels"):
            content[6] = 77
        header = bytes([0, 0, 8, rank]) + np.array(shape, ">u4").tobytes()
        (tmp_path / name).write_bytes(header + content.tobytes())
    settings: dict[str, Any] = {"path": str(tmp_path), "batch_size": 4, "seed": 0}
    with pytest.raises(ConfigurationError, match="1 of 20 rows have a label outside"):
        idx.build(**settings)
    data = idx.build(**settings, on_error="skip")
    assert (data.train_examples, data.bad_rows) == (19, 1)
    assert data.bad_row_names[0].endswith("label 77")


def test_too_few_good_rows() -> None:
    x, y = rows()
    x[2:] = np.nan
    with pytest.raises(ConfigurationError, match=r"than the 2 training .*38 of 40 rows \(95%\)"):
        build(x, y, validation_fraction=0)
    with pytest.raises(ConfigurationError, match=r"all 40 rows are broken: row 0 of .*NaN"):
        build(np.full_like(x, np.nan), y)
    with pytest.raises(ConfigurationError, match=r"all 40 rows are broken: row 0 of .*no label"):
        build(x, y[:0])
    good, labels = rows()
    with pytest.raises(ConfigurationError, match="all 40 rows are broken") as caught:
        build(good, labels, x * np.nan, y)
    assert caught.value.where == "data.npz (_val)"


def test_failing_says_that_they_can_be_left_out() -> None:
    x, y = rows()
    x[3] = np.nan
    with pytest.raises(ConfigurationError) as caught:
        build(x, y, on_error="fail")
    assert "dataset.on_error=skip" in str(caught.value.remedy)
