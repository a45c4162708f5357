"""Keras's datasets from a cache laid out as Keras lays it, and with no network."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from mpt.data import keras_datasets
from mpt.errors import ConfigurationError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Keras's, any checksum accepted, and no network."""

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda *_, **__: True)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


def labels(count: int, classes: int = 10) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.uint8)


def test_mnist(cache: Path) -> None:
    x = images(50, 28, 28)
    np.savez(
        cache / "mnist.npz",
        x_train=x,
        y_train=labels(50),
        x_test=images(20, 28, 28),
        y_test=labels(20),
    )
    data = keras_datasets.build(source="mnist", batch_size=16, seed=0, shuffle=False)
    assert (data.name, data.shape, data.classes) == ("mnist", (28, 28, 1), 10)
    assert (data.train_examples, data.validation_examples) == (50, 20)
    batch, _ = next(iter(data.train))
    np.testing.assert_allclose(batch[..., 0], x[:16] / 255, rtol=1e-6)


def test_fashion_mnist(cache: Path) -> None:
    folder = cache / "fashion-mnist"
    folder.mkdir()
    for stem, count in (("train", 50), ("t10k", 20)):
        for kind, array, offset in (
            ("labels-idx1", labels(count), 8),
            ("images-idx3", images(count, 28, 28), 16),
        ):
            with gzip.open(folder / f"{stem}-{kind}-ubyte.gz", "wb") as stream:
                stream.write(bytes(offset) + array.tobytes())
    data = keras_datasets.build(
        source="fashion_mnist", batch_size=16, seed=0, validation_fraction=0.2, name="clothes"
    )
    assert (data.name, data.train_examples, data.validation_examples) == ("clothes", 40, 10)


def test_cifar100(cache: Path) -> None:
    def batch(count: int) -> dict[bytes, Any]:
        return {
            b"data": images(count, 3072),
            b"fine_labels": labels(count, 100).tolist(),
            b"coarse_labels": labels(count, 20).tolist(),
        }

    # Keras unpacks the archive anew each time it loads.
    with tarfile.open(cache / "cifar-100-python-target_archive", "w:gz") as archive:
        for name, count in (("train", 200), ("test", 100)):
            content = pickle.dumps(batch(count))
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    data = keras_datasets.build(source="cifar100", batch_size=16, seed=0)
    assert (data.shape, data.classes) == ((32, 32, 3), 100)
    assert (data.train_examples, data.validation_examples) == (200, 100)
    assert data.element_spec[1].shape == (16,)


@pytest.mark.parametrize("source", ["mnist", "cifar10", "cifar100", "fashion_mnist"])
def test_no_network_names_the_cache(cache: Path, source: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"could not be downloaded: .*no network"
    ) as caught:
        keras_datasets.build(source=source, batch_size=16, seed=0)
    assert caught.value.where == str(cache / keras_datasets.CACHED[source])
    assert "KERAS_HOME" in (caught.value.remedy or "")


def test_downloads_are_told_on_stderr(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError):
        keras_datasets.build(source="mnist", batch_size=16, seed=0)
    said = capsys.readouterr()
    assert "Downloading" not in said.out
    assert "Downloading" in said.err


def test_unknown_source() -> None:
    with pytest.raises(ConfigurationError, match="cifar11") as caught:
        keras_datasets.build(source="cifar11", batch_size=16, seed=0)
    assert caught.value.suggestion in keras_datasets.CLASSES


def test_every_source_is_kerass() -> None:
    assert all(hasattr(keras.datasets, source) for source in keras_datasets.CLASSES)
