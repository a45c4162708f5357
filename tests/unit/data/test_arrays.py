"""The user's .npz and .npy files, whole and broken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpt.data import arrays, gathering
from mpt.data.examples import Data
from mpt.errors import ConfigurationError

X = np.random.default_rng(0).integers(0, 256, (40, 4, 3), np.uint8)
Y = (np.arange(40) % 5).astype(np.int64)


def build(path: Path, **changes: Any) -> Data:
    arguments: dict[str, Any] = {"batch_size": 8, "seed": 0, "shuffle": False}
    return arrays.build(path=str(path), **{**arguments, **changes})


def rows(data: Data, batches: int) -> np.ndarray:
    return np.concatenate([x for x, _ in data.train.take(batches).as_numpy_iterator()])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, save: Any, order: str) -> None:
    save(tmp_path / "data.npz", other=np.zeros(3), x=np.asarray(X, order=order), y=Y)
    data = build(tmp_path / "data.npz", validation_fraction=0)
    np.testing.assert_allclose(rows(data, 5), X / 255, rtol=1e-6)
    assert (data.shape, data.classes, data.name) == ((4, 3), 5, "arrays")


def test_an_uncompressed_npz_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MEMORY_MAP_ABOVE", 1)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    found = arrays._arrays(tmp_path / "data.npz", None)
    assert gathering.is_large_map(found["x"])
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["y"], Y)
    data = build(tmp_path / "data.npz", validation_fraction=0)
    np.testing.assert_allclose(rows(data, 5), X / 255, rtol=1e-6)


def test_validation_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y, x_val=X[:10], y_val=Y[:10] + 2)
    data = build(tmp_path / "data.npz")
    assert (data.train_examples, data.validation_examples, data.classes) == (40, 10, 7)
    assert data.validation_source == "x_val"


def test_folder_of_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y.astype(np.float64))
    data = build(tmp_path)
    assert (data.train_examples, data.validation_examples, data.classes) == (32, 8, None)


def test_npy_pair_shape_scale_and_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", X)
    np.save(tmp_path / "answers.npy", Y)
    data = build(
        tmp_path / "images.npy",
        labels=str(tmp_path / "answers.npy"),
        shape=[4, 3, 1],
        scale=2,
        classes=9,
        validation_fraction=0,
    )
    assert (data.shape, data.classes) == ((4, 3, 1), 9)
    np.testing.assert_allclose(rows(data, 5)[..., 0], X * 2.0)


def test_examples_limits_the_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    assert build(tmp_path / "data.npz", examples=20, validation_fraction=0).train_examples == 20


class Loaded:
    """An object whose unpickling would leave a trace."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize("file", ["x.npy", "data.npz"])
def test_pickled_objects_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = np.array([Loaded()] * 40, dtype=object)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "x.npy", pickled, allow_pickle=True)
    np.savez(tmp_path / "data.npz", x=pickled, y=Y)
    with pytest.raises(ConfigurationError, match=r"pickled objects .*never loaded"):
        build(tmp_path / file if file == "data.npz" else tmp_path)
    assert not (tmp_path / "unpickled").exists()


def broken(tmp_path: Path, kind: str) -> Path:
    """A file or folder that cannot be used."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=X, y=Y)
    whole = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty npz":
        path.write_bytes(b"")
    elif kind == "truncated npz":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "damaged npz":
        path.write_bytes(whole[:150] + bytes(60) + whole[210:])
    elif kind == "no y":
        np.savez(path, x=X, labels=Y)
    elif kind == "x_val alone":
        np.savez(path, x=X, y=Y, x_val=X)
    elif kind == "other ending":
        path = path.rename(tmp_path / "data.csv")
    elif kind == "lengths":
        np.savez(path, x=X, y=Y[:-1])
    elif kind == "no rows":
        np.savez(path, x=X[:0], y=Y[:0])
    elif kind == "strings":
        np.savez(path, x=X, y=Y.astype(str))
    else:
        return broken_npy(tmp_path, kind)
    return path


def broken_npy(tmp_path: Path, kind: str) -> Path:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    whole = (tmp_path / "x.npy").read_bytes()
    if kind == "truncated npy":
        (tmp_path / "x.npy").write_bytes(whole[:-7])
    elif kind == "empty npy":
        (tmp_path / "x.npy").write_bytes(b"")
    elif kind == "wrong magic":
        (tmp_path / "x.npy").write_bytes(b"PK" + whole)
    elif kind == "no y.npy":
        (tmp_path / "y.npy").unlink()
    elif kind == "x.npy alone":
        return tmp_path / "x.npy"
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("empty npz", "is empty"),
        ("truncated npz", "no whole .npz"),
        ("damaged npz", "no whole .npz"),
        ("no y", "has no y, it has x, labels"),
        ("x_val alone", "must come together"),
        ("other ending", "neither .npz, nor .npy"),
        ("lengths", "x has 40 rows, y has 39"),
        ("no rows", "no examples"),
        ("strings", "dtype <U"),
        ("truncated npy", "truncated, shape .*480 bytes, there are 473"),
        ("empty npy", "is empty"),
        ("wrong magic", "no whole .npy"),
        ("no y.npy", "has no y.npy"),
        ("x.npy alone", "holds the examples alone"),
    ],
)
def test_broken(tmp_path: Path, kind: str, message: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(path)
    assert str(tmp_path) in str(caught.value.where) or "dataset." in str(caught.value.where)


def test_nan_is_named_with_its_file(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    x[7, 1, 1] = np.nan
    np.savez(tmp_path / "data.npz", x=x, y=Y)
    with pytest.raises(ConfigurationError, match="1 of 40 rows hold NaN or infinity: row 7") as e:
        build(tmp_path / "data.npz")
    assert e.value.where == f"{tmp_path / 'data.npz'} (x)"


def test_shape_of_another_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    with pytest.raises(ConfigurationError, match="cannot take the shape") as caught:
        build(tmp_path / "data.npz", shape=[5, 5])
    assert caught.value.where == "dataset.shape"


def test_labels_file_missing(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ConfigurationError, match="does not exist") as caught:
        build(tmp_path / "x.npy", labels=str(tmp_path / "none.npy"))
    assert caught.value.where == "dataset.labels"
