"""IDX files, whole and broken."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpt.data import idx, keras_datasets
from mpt.errors import ConfigurationError


def encoded(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 10)):
        images = random.integers(0, 256, (count, 6, 5), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(encoded(images))
        with gzip.open(tmp_path / f"{stem}-labels-idx1-ubyte.gz", "wb") as stream:
            stream.write(encoded(labels))
    return tmp_path


def test_raw_and_gzipped_files(folder: Path) -> None:
    data = idx.build(batch_size=8, seed=0, path=str(folder), shuffle=False)
    assert (data.train_examples, data.validation_examples) == (40, 10)
    assert (data.shape, data.classes) == ((6, 5, 1), 10)
    assert data.validation_source == "official test split"
    x, y = next(iter(data.train))
    raw = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    np.testing.assert_allclose(x[..., 0], raw.reshape(40, 6, 5)[:8] / 255, rtol=1e-6)
    assert y.numpy().tolist() == list(range(8))


def test_a_fraction_of_the_training_files(folder: Path) -> None:
    data = idx.build(batch_size=8, seed=0, path=str(folder), validation_fraction=0.25)
    assert (data.train_examples, data.validation_examples) == (30, 10)
    assert data.validation_source == "0.25 of the training examples"


@pytest.mark.skipif(not idx.DEBIAN_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_files() -> None:
    data = idx.build(batch_size=128, seed=0)
    assert (data.train_examples, data.validation_examples) == (60_000, 10_000)
    assert data.shape == (28, 28, 1)


def test_without_a_folder_keras_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr(idx, "DEBIAN_FOLDER", Path("/nowhere"))
    monkeypatch.setattr(keras_datasets, "build", lambda **arguments: asked.update(arguments))
    idx.build(batch_size=8, seed=1, examples=5)
    assert (asked["source"], asked["seed"], asked["examples"]) == ("fashion_mnist", 1, 5)


IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (IMAGES, lambda raw: b"", "is empty"),
        (IMAGES, lambda raw: raw[:100], "is truncated: 100 bytes"),
        (IMAGES, lambda raw: raw[:9], "the header alone has 16"),
        (IMAGES, lambda raw: raw + b"1", "is too long"),
        (IMAGES, lambda raw: b"\x89PNG" + raw, "no IDX file of bytes in 3 .*89504e47"),
        (IMAGES, lambda raw: raw[:3] + b"\x01" + raw[4:], "no IDX file of bytes in 3"),
        (LABELS, lambda raw: raw[:20], "truncated or no gzip"),
        (LABELS, lambda raw: b"", "is empty"),
        (LABELS, lambda raw: b"plain text", "no gzip"),
        (LABELS, lambda raw: gzip.compress(encoded(np.full(40, 10, np.uint8))), "40 of 40 rows"),
        (LABELS, lambda raw: gzip.compress(encoded(np.zeros(39, np.uint8))), "y has 39"),
    ],
)
def test_broken_files(
    folder: Path, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(ConfigurationError, match=message) as caught:
        idx.build(batch_size=8, seed=0, path=str(folder))
    assert str(folder) in (caught.value.where or "")


def test_missing_files(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(ConfigurationError, match="lacks t10k-images-idx3-ubyte") as caught:
        idx.build(batch_size=8, seed=0, path=str(folder))
    assert caught.value.where == "dataset.path"
    with pytest.raises(ConfigurationError, match="is not a folder"):
        idx.build(batch_size=8, seed=0, path=str(folder / "absent"))
