"""Images in class folders: what is read, in which order, how it is cropped, what is refused."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import image_folder
from mpt.errors import ConfigurationError

CLASSES = ("ape", "bee", "cat")


def gradient(height, width, channels=3):
    """An image whose red tells the row and whose green the column, of 0 to 255."""
    image = np.zeros((height, width, channels), np.uint8)
    image[..., 0] = np.linspace(0, 255, height)[:, None]
    if channels == 3:
        image[..., 1] = np.linspace(0, 255, width)[None]
    return image


def write(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_jpeg if file.suffix == ".jpg" else tf.io.encode_png
    file.write_bytes(encode(image).numpy())


@pytest.fixture
def folder(tmp_path):
    """`train` with 8 images a class, whose blue is the class's and the image's; `val` with 2."""
    for part, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(CLASSES):
            for index in range(count):
                image = gradient(20, 30)
                image[..., 2] = 80 * label + 10 * index
                write(tmp_path / "data" / part / name / f"{index}.png", image)
    return tmp_path / "data"


def built(path, **more):
    settings = {"batch_size": 4, "seed": 0, "size": 16, **more}
    return image_folder.build(path=str(path), **settings)


def batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def test_a_folder_of_class_folders(folder):
    data = built(folder)
    assert (data.train_examples, data.validation_examples, data.classes) == (24, 6, 3)
    assert (data.shape, data.steps_per_epoch, data.validation_source) == ((16, 16, 3), 6, "val")
    x, y = zip(*batches(data.train, 6), strict=True)
    assert x[0].dtype == np.float32
    assert y[0].dtype == np.int32
    assert 0 <= min(map(np.min, x)) <= max(map(np.max, x)) <= 1
    assert sorted(np.concatenate(y)) == sorted([0, 1, 2] * 8)
    blues = np.round(np.concatenate(x)[..., 2].mean((1, 2)) * 255).astype(int)
    assert sorted(blues) == sorted(80 * label + 10 * i for label in range(3) for i in range(8))
    assert np.array_equal(blues // 80, np.concatenate(y))
    alone = built(folder / "train", validation_fraction=0.25)
    assert (alone.train_examples, alone.validation_examples) == (18, 6)


def test_the_same_each_time_and_another_order_each_epoch(folder):
    one, other = (batches(built(folder).train, 12) for _ in range(2))
    for (x, y), (x2, y2) in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    labels = np.concatenate([y for _, y in one])
    assert not np.array_equal(labels[:24], labels[24:])
    first = np.concatenate([x for x, _ in one[:6]])
    again = np.concatenate([x for x, _ in one[6:]])
    shades = [np.round(part[..., 2].mean((1, 2)) * 255).astype(int) for part in (first, again)]
    same = again[np.argsort(shades[1])], first[np.argsort(shades[0])]
    assert not np.array_equal(*same), "an image has another crop in each epoch"
    assert not np.array_equal(one[0][0], batches(built(folder, seed=1).train, 1)[0][0])


@pytest.mark.parametrize(
    "settings", [{}, {"mixup": 0.4}, {"cutmix": 1.0, "mixup": 0.4}, {"randaugment": 2}]
)
def test_it_goes_to_a_place_at_once(folder, settings):
    data = built(folder, **settings)
    unbroken = batches(data.train, 9)
    for (x, y), (x2, y2) in zip(unbroken[7:], batches(data.at(7), 2), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_random_crops_are_windows_of_their_image(tmp_path, suffix):
    for name in ("a", "b"):
        write(tmp_path / name / f"0{suffix}", gradient(240, 320))
    data = built(tmp_path, batch_size=2, crop_area=0.25, validation_fraction=0, size=32)
    areas, mirrored = [], []
    for x, _ in batches(data.train, 60):
        for image in x:
            rows, columns = image[..., 0].mean(1), image[..., 1].mean(0)
            turned = columns[0] > columns[-1]
            mirrored.append(turned)
            columns = columns[::-1] if turned else columns
            assert (np.diff(rows) > -0.01).all()
            assert (np.diff(columns) > -0.01).all()
            # 32 pixels' middles span 31 of 32 parts of the window.
            height, width = (240 * (side[-1] - side[0]) * 32 / 31 for side in (rows, columns))
            width *= 320 / 240
            areas.append(height * width / (240 * 320))
            assert 0.7 < width / height < 1.43
    assert 0.2 < min(areas) < 0.4
    assert 0.8 < max(areas) < 1.1
    assert 40 < sum(mirrored) < 80


@pytest.mark.parametrize(("height", "width", "size"), [(20, 30, (16, 16)), (31, 17, (8, 12))])
def test_validation_has_the_centre(tmp_path, height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("uint8")
    for name in ("a", "b"):
        write(tmp_path / name / "0.png", image)
        write(tmp_path / name / "1.png", image)
    settings = {"size": list(size), "center": 0.8, "validation_fraction": 0.5, "batch_size": 1}
    (x, _), *_ = batches(built(tmp_path, **settings).validation, 1)
    scale = min(height / size[0], width / size[1])
    rows, columns = (round(0.8 * scale * side) for side in size)
    top, left = (height - rows) // 2, (width - columns) // 2
    window = image[top : top + rows, left : left + columns]
    expected = tf.image.resize(window, size).numpy() / 255
    np.testing.assert_allclose(x[0], expected, atol=1e-6)


def test_images_of_other_channels_are_converted(tmp_path):
    write(tmp_path / "a" / "0.png", gradient(20, 20, 1))
    write(tmp_path / "a" / "1.jpg", gradient(20, 20, 1))
    write(tmp_path / "b" / "0.png", np.dstack([gradient(20, 20), np.full((20, 20), 9, "uint8")]))
    for channels in (1, 3):
        settings = {"channels": channels, "validation_fraction": 0, "batch_size": 3}
        ((x, _),) = batches(built(tmp_path, **settings).train, 1)
        assert x.shape == (3, 16, 16, channels)


def test_mixup_mixes_images_and_labels_alike(folder):
    plain = built(folder, crop_area=None, flip=False)
    data = built(folder, crop_area=None, flip=False, mixup=0.5)
    weights = []
    for (x, y), (mixed_x, mixed_y) in zip(
        batches(plain.train, 6), batches(data.train, 6), strict=True
    ):
        assert mixed_y.dtype == np.float32
        one_hot = np.eye(3, dtype="float32")[y]
        changed = one_hot != one_hot[::-1]
        weight = np.median(
            ((mixed_y - one_hot[::-1])[changed]) / (one_hot - one_hot[::-1])[changed]
        )
        np.testing.assert_allclose(
            mixed_y, weight * one_hot + (1 - weight) * one_hot[::-1], atol=1e-5
        )
        np.testing.assert_allclose(mixed_x, weight * x + (1 - weight) * x[::-1], atol=1e-5)
        weights.append(weight)
    assert len(set(np.round(weights, 4))) == 6
    (_, y), *_ = batches(data.validation, 1)
    assert sorted(set(y.ravel())) == [0, 1]


def test_a_box_of_another_image_and_its_label(folder):
    plain = built(folder, crop_area=None, flip=False)
    data = built(folder, crop_area=None, flip=False, cutmix=1.0)
    shares = []
    for (x, y), (cut_x, cut_y) in zip(batches(plain.train, 6), batches(data.train, 6), strict=True):
        own, other = (cut_x == x).all(-1), (cut_x == x[::-1]).all(-1)
        assert (own | other).all()
        share = 1 - own[x[..., 2].mean((1, 2)) != x[::-1, ..., 2].mean((1, 2))][0].mean()
        one_hot = np.eye(3, dtype="float32")[y]
        np.testing.assert_allclose(cut_y, (1 - share) * one_hot + share * one_hot[::-1], atol=1e-6)
        shares.append(share)
    assert len(set(shares)) > 3
    (_, y), *_ = batches(data.validation, 1)
    assert sorted(set(y.ravel())) == [0, 1]


def test_images_are_changed_by_randaugment_in_training_only(folder):
    settings = {"crop_area": None, "flip": False, "shuffle": False}
    plain = built(folder, **settings)
    one, again, other = (
        np.concatenate([x for x, _ in batches(data.train, 12)])
        for data in (
            built(folder, randaugment=2, **settings),
            built(folder, randaugment=2, **settings),
            built(folder, randaugment=2, seed=1, **settings),
        )
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[:24], one[24:]), "an image is changed otherwise in each epoch"
    assert 0 <= one.min() <= one.max() <= 1
    x = np.concatenate([x for x, _ in batches(plain.train, 6)])
    assert (np.abs(x - one[:24]).max((1, 2, 3)) > 0.01).sum() > 12
    held_out = zip(
        batches(plain.validation, 2),
        batches(built(folder, randaugment=2).validation, 2),
        strict=True,
    )
    for (x, _), (x2, _) in held_out:
        np.testing.assert_array_equal(x, x2)


def broken(folder):
    """Two images that cannot be decoded."""
    content = (folder / "train/ape/3.png").read_bytes()
    (folder / "train/ape/3.png").write_bytes(content[: len(content) // 2])
    (folder / "train/cat/5.png").write_bytes(b"no image")
    return folder


def test_broken_images_are_left_out_and_named(folder):
    data = built(broken(folder), on_error="skip")
    assert (data.train_examples, data.bad_rows) == (22, 2)
    names = data.bad_row_names
    assert [name.partition(": ")[0] for name in names] == ["ape/3.png", "cat/5.png"]
    assert "2 of 30 rows" in data.warnings[0]
    assert len(batches(data.train, 10)) == 10


def test_a_broken_image_is_named(folder):
    data = built(broken(folder))
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(data.train, 6)
    assert data.locate() == f"image ape/3.png of {folder}/train"


def test_other_files_are_counted(folder):
    (folder / "train/ape/notes.txt").write_text("x")
    (folder / "val/bee/Thumbs.db").write_text("x")
    assert built(folder).warnings == ("2 files in the class folders are no images: 1 .txt, 1 .db",)


def test_the_fingerprint_is_that_of_the_files(folder, tmp_path):
    before = built(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert built(tmp_path / "copy").fingerprint == before
    os.rename(folder / "train/ape/1.png", folder / "train/ape/9.png")
    assert built(folder).fingerprint != before


def empty_class(folder):
    (folder / "train/dog").mkdir()


def no_images(folder):
    for file in (folder / "train/bee").iterdir():
        file.rename(file.with_suffix(".txt"))


def no_classes(folder):
    for name in CLASSES:
        shutil.rmtree(folder / "train" / name)


def other_classes(folder):
    (folder / "val/cat").rename(folder / "val/cow")


@pytest.mark.parametrize(
    ("change", "words", "where", "says"),
    [
        (empty_class, {}, "train/dog", "'dog' has no images: it holds nothing"),
        (no_images, {}, "train/bee", "it holds 8 files, as 0.txt"),
        (no_classes, {}, "dataset.path", "no folders of classes"),
        (other_classes, {}, "dataset.path", "different classes: cat, cow"),
        (None, {"path": "absent"}, "dataset.path", "not a folder"),
        (None, {"size": 0}, "dataset.size", "1 or more"),
        (None, {"size": [16]}, "dataset.size", "height, width"),
        (None, {"channels": 2}, "dataset.channels", "1 or 3"),
        (None, {"crop_area": 0}, "dataset.crop_area", "above 0"),
        (None, {"mixup": -1}, "dataset.mixup", "0 or more"),
        (None, {"cutmix": -1}, "dataset.cutmix", "0 or more"),
        (None, {"randaugment": 15}, "dataset.randaugment", "0 to 14"),
        (None, {"magnitude": 31}, "dataset.magnitude", "0 to 30"),
        (None, {"center": 2}, "dataset.center", "up to 1"),
        (None, {"batch_size": 25}, "batch_size", "25"),
        (None, {"examples": 99}, "dataset.examples", "99"),
    ],
)
def test_bad_input(folder, change, words, where, says):
    if change is not None:
        change(folder)
    with pytest.raises(ConfigurationError) as error:
        built(folder / words.pop("path", ""), **words)
    assert error.value.where.endswith(where)
    assert says in str(error.value)
