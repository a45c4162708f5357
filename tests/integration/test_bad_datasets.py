"""Datasets of files that cannot be trained on: refused in one block, and nothing is written."""

import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

TINY = (
    *("device=cpu", "batch_size=4", "telemetry.peak=false", "telemetry.tensorboard=false", "-q"),
    *("trainer.steps=4", "trainer.epochs=null", "trainer.log_every=2", "run_dir=run"),
)
FOLDER = ("dataset=image_folder", "dataset.path=photos", "dataset.size=16")
SCENES = ("dataset=mask_folder", "dataset.path=scenes", "dataset.size=16", "dataset.classes=3")
UNET = ("model=unet", "model.width=2", "model.depth=1")
TEXT = ("dataset=text", "dataset.length=8", "model=gpt", "model.depth=1", "model.width=8")
SHARDS = ("dataset=tfrecord", "dataset.path=shards", "dataset.size=16", "dataset.classes=3")
CNN = ("model=cnn", "model.filters=2")


def encoded(number, channels=3, suffix=".png"):
    image = np.full((20, 24, channels), 10 * number, np.uint8)
    encode = tf.io.encode_jpeg if suffix == ".jpg" else tf.io.encode_png
    return encode(image).numpy()


def photos(kinds=((3, ".png"),)):
    """Two classes of eight images, of the (channels, suffix) in turn."""
    for name in ("bee", "cat"):
        Path("photos", name).mkdir(parents=True)
        for number, (channels, suffix) in enumerate(islice(cycle(kinds), 8)):
            content = encoded(number, channels, suffix)
            Path("photos", name, f"{number}{suffix}").write_bytes(content)


def scenes(change=lambda: None):
    """Eight images and their masks of three classes; then `change`."""

    def write():
        for part in ("images", "masks"):
            Path("scenes", part).mkdir(parents=True)
        ids = np.arange(20 * 24).reshape(20, 24, 1) % 3
        for number in range(8):
            Path(f"scenes/images/{number}.png").write_bytes(encoded(number))
            mask(number, ids)
        change()

    return write


def mask(number, ids):
    content = tf.io.encode_png(ids.astype(np.uint8)).numpy()
    Path(f"scenes/masks/{number}.png").write_bytes(content)


def empty_class():
    photos()
    Path("photos/dog").mkdir()


def no_images():
    photos()
    Path("photos/dog").mkdir()
    Path("photos/dog/notes.txt").write_text("no image")


def no_bytes():
    photos()
    Path("photos/cat/3.png").write_bytes(b"")


def no_image_inside():
    photos()
    for file in Path("photos/bee").iterdir():
        file.write_text("no image")


def no_classes():
    Path("photos").mkdir()
    Path("photos/0.png").write_bytes(encoded(0))


def bytes_of_ids(*ids, name="ids.bin"):
    def write():
        np.array(ids * 20, np.uint16).tofile(name)

    return write


def shards(*labels):
    def write():
        Path("shards").mkdir()
        with tf.io.TFRecordWriter("shards/train-00000-of-00001") as writer:
            for number, label in enumerate(labels * 4):
                features = {
                    "image/encoded": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[encoded(number)])
                    ),
                    "image/class/label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[label])
                    ),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())

    return write


def odd_text():
    Path("ids.bin").write_bytes(b"abc")


def nothing():
    """What is refused is a name."""


def labels_beyond():
    np.savez("data.npz", x=np.ones((40, 8), np.float32), y=np.arange(40) % 5)


@pytest.mark.parametrize(
    ("make", "words", "where", "says"),
    [
        (empty_class, (*FOLDER, *CNN), "photos/dog", "'dog' has no images: it holds nothing"),
        (no_images, (*FOLDER, *CNN), "photos/dog", "it holds 1 files, as notes.txt"),
        (no_classes, (*FOLDER, *CNN), "dataset.path", "no folders of classes"),
        (no_bytes, (*FOLDER, *CNN), "dataset.path", "image cat/3.png of"),
        (no_image_inside, (*FOLDER, *CNN), "dataset", "image bee/0.png of"),
        (
            scenes(lambda: Path("scenes/masks/3.png").unlink()),
            (*SCENES, *UNET),
            "scenes/images/3.png",
            "images/3.png has no mask",
        ),
        (
            scenes(lambda: mask(3, np.ones((20, 20, 1)))),
            (*SCENES, *UNET),
            "scenes/masks/3.png",
            "has 20x20 pixels, its image 3.png 20x24",
        ),
        (
            scenes(lambda: mask(3, np.full((20, 24, 1), 7))),
            (*SCENES, *UNET),
            "scenes/masks/3.png",
            "has the id 7, and there are 3 classes",
        ),
        (
            scenes(lambda: mask(3, np.ones((20, 24, 3)))),
            (*SCENES, *UNET),
            "scenes/masks/3.png",
            "holds colours (RGB), not one id a pixel",
        ),
        (
            scenes(),
            (*SCENES, *UNET, "dataset.size=15"),
            "model.depth",
            "images of 15x15 cannot be halved 1 times",
        ),
        (scenes(), (*SCENES, *CNN), "model", "its labels (16, 16)"),
        (
            bytes_of_ids(1, 2, 30),
            (*TEXT, "dataset.path=ids.bin", "dataset.vocabulary=30"),
            "dataset.vocabulary",
            "holds the id 30, the vocabulary has 30",
        ),
        (odd_text, (*TEXT, "dataset.path=ids.bin"), "dataset.path", "3 bytes"),
        (
            labels_beyond,
            ("dataset=arrays", "dataset.path=data.npz", "dataset.classes=4", "model=mlp"),
            "data.npz (y)",
            "label outside [0, 4)",
        ),
        (
            nothing,
            ("dataset=tfds", "dataset.name=huggingface:mnist", "dataset.download=true", *CNN),
            "dataset.name",
            "its code would be downloaded and run",
        ),
        (
            nothing,
            ("dataset=tfds", "dataset.name=mnist", "dataset.data_dir=absent", *CNN),
            "dataset.data_dir",
            "there is no folder absent",
        ),
        (shards(0, 1, 2), (*SHARDS, *CNN), "dataset", "label outside [1, 4)"),
        (shards(1, 2, 4), (*SHARDS, *CNN), "dataset", "label outside [1, 4)"),
        (
            shards(1, 2, 3),
            (*SHARDS, *CNN, "dataset.label_key=label"),
            "dataset",
            "could not be read",
        ),
    ],
)
def test_what_cannot_be_trained_on(mpt, make, words, where, says):
    make()
    before = sorted(Path().rglob("*"))
    done = mpt("train", *words, *TINY)
    assert done.code == 2, done.out + done.err
    assert done.err.startswith("error: ") or "\nerror: " in done.err
    assert says in done.err
    assert f"where:   {where}" in done.err or where in done.err.partition("where:")[2]
    assert "Traceback" not in done.err
    assert sorted(Path().rglob("*")) == before


def test_images_of_grey_colour_and_of_both_kinds_are_converted(mpt):
    """channels=3 makes a grey image's three channels alike; channels=1 takes the luma."""
    photos([(1, ".png"), (3, ".jpg"), (4, ".png"), (3, ".png"), (1, ".jpg")])
    for channels in (3, 1):
        words = (f"dataset.channels={channels}", f"run_dir=run{channels}")
        done = mpt("train", *FOLDER, *CNN, *TINY, *words)
        assert done.code == 0, done.err
        report = json.loads(Path(f"run{channels}/report.json").read_text())
        assert (report["status"], report["data"]["bad_rows"]) == ("completed", 0)


def test_images_of_no_bytes_may_be_left_out(mpt):
    no_bytes()
    done = mpt("train", *FOLDER, *CNN, *TINY, "dataset.on_error=skip")
    assert done.code == 0, done.err
    report = json.loads(Path("run/report.json").read_text())
    assert report["data"]["bad_rows"] == 1
    assert report["data"]["bad_row_names"][0].startswith("cat/3.png: ")
