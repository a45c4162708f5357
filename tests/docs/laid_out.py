"""The files and folders that the pages' commands name, with something small in each."""

import gzip
import shlex
import shutil
from pathlib import Path
from typing import Any

import documented
import numpy as np
import pages_study
from PIL import Image

# Runs and sweeps as the pages name them.
RUNS = (
    "RUN",
    "PATH/first",
    "runs/2026-11-25/01-56-09_cnn_auto_bab8",
    "runs/2026-11-25/10-00-00_cnn_float32_ab12",
    "runs/2026-11-25/10-00-00_resnet_mixed_float16_1a2b",
    "of_fashion_mnist",
)
# What such a run was made with, besides the defaults.
CHOICES = {"of_fashion_mnist": ("dataset=fashion_mnist", "dataset.path=idx")}
SWEEPS = (
    "sweep",
    "sweeps/2026-11-25/10-00-00",
    "sweeps/2026-11-25/10-12-59",
    "sweeps/2026-11-25/10-20-55",
    "sweeps/ci",
    "sweeps/first",
    "sweeps/nightly",
)
REAL = ("sweeps/2026-11-25/10-12-59", "sweeps/first")  # that go on, or are shown as curves
# Of a page -> here. What stands for anything, and folders at the root of a file system.
WORDS = {
    "model=NAME": "model=mlp",
    "dataset=NAME": "dataset=digits",
    "dataset.path=/data/imagenet": "dataset.path=folders",
    "dataset.path=/data/imagenet-tfrecord": "dataset.path=imagenet",
    "dataset.path=/data/openwebtext": "dataset.path=openwebtext",
    "dataset.path=FOLDER": "dataset.path=imagenet",
    "run_dir=/shared/run": "run_dir=shared/run",
}


# RUN is one of digits, where the page does not speak of another one.
OTHER_RUNS = {"mpt evaluate RUN dataset.validation_fraction=null": "of_fashion_mnist"}


PROJECT = "spirals"  # that `mpt init` has made
# Where a command is typed, if not in the folder that has everything.
PLACES = {"mpt train --config-dir configs --allow spirals recipe=spirals": PROJECT}


def words(text: str) -> list[str]:
    """A command's arguments, with what stands for something else replaced."""
    stands_for = {**WORDS, "RUN": OTHER_RUNS.get(text, "RUN")}
    return [stands_for.get(word, word) for word in shlex.split(text)[1:]]


def study(folder: Path) -> None:
    """A sweep over two policies, five seeds each, of which all jobs ended well."""
    pages_study.study(folder)
    for name in ("diverged", "half_written", "killed"):
        shutil.rmtree(folder / name)
    for run in folder.glob("mixed_float16_*"):
        shutil.rmtree(run)


def data(folder: Path) -> None:
    """Everything but runs and sweeps."""
    for name, content in documented.files(documented.ROOT / "docs/your-own.md").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    random = np.random.default_rng(0)
    x, y = random.random((64, 8, 8, 1), np.float32), np.arange(64) % 3
    np.savez(folder / "data.npz", x=x, y=y)
    (folder / "data").mkdir()
    x[3] = np.nan
    np.save(folder / "data/x.npy", x)
    np.save(folder / "data/y.npy", y)
    for name in ("book.txt", "FILE"):
        (folder / name).write_text("Should this model train in reduced precision? " * 200)
    tokens = random.integers(0, 50257, 4000).astype(np.uint16)
    (folder / "openwebtext").mkdir()
    tokens.tofile(folder / "openwebtext/train.bin")
    tokens[:2200].tofile(folder / "openwebtext/val.bin")
    _class_folders(folder / "photos", ("bee", "cat"))
    _class_folders(folder / "folders", ("n01440764", "n01443537"))
    _masks(folder / "scenes")
    _idx(folder / "idx")


def shards(folder: Path) -> None:
    """ImageNet's usual conversion; it imports TensorFlow."""
    import io

    import tensorflow as tf

    folder.mkdir()
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in range(12):
                jpeg = io.BytesIO()
                _picture(number).save(jpeg, "JPEG")
                example = tf.train.Example()
                feature = example.features.feature
                feature["image/encoded"].bytes_list.value.append(jpeg.getvalue())
                feature["image/class/label"].int64_list.value.append(1 + number)
                writer.write(example.SerializeToString())


def _picture(number: int) -> Any:
    pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 48, 3), np.uint8)
    return Image.fromarray(pixels)


def _class_folders(folder: Path, classes: tuple[str, ...]) -> None:
    for part, count in (("train", 8), ("val", 4)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                _picture(number).save(folder / part / name / f"{number}.jpg")


def _masks(folder: Path) -> None:
    for part, count in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(count):
            ids = np.random.default_rng(number).integers(0, 3, (40 + number, 48), np.uint8)
            _picture(number).save(folder / part / "images" / f"{number}.jpg")
            Image.fromarray(ids).save(folder / part / "masks" / f"{number}.png")


def _idx(folder: Path) -> None:
    """Fashion-MNIST's four files."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for part, rows in {"train": 40, "t10k": 20}.items():
        images = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        for name, array in {"images-idx3": images, "labels-idx1": labels}.items():
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            file = folder / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(head + array.tobytes()))
