"""Images and their masks: what is read, in which order, how both are cropped, what is refused."""

import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf

from mpt.data import mask_folder
from mpt.errors import ConfigurationError

PALETTE = bytes(range(3, 3 + 3 * 16))


def png(ids, colour=0, bits=8, palette=b""):
    """A PNG file by its specification: no library writes ids of 2 bits, or a palette, for us."""
    height, width = ids.shape[:2]

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in ids]
    else:
        rows = []
        for row in ids:
            spread = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
            rows.append(np.packbits(spread.ravel()).tobytes())
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    before = chunk(b"PLTE", palette) + chunk(b"tRNS", b"\x80\x01") if palette else b""
    parts = chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def write(folder, name, image, ids, suffix=".png", **about):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    encode = tf.io.encode_jpeg if suffix == ".jpg" else tf.io.encode_png
    (folder / "images" / f"{name}{suffix}").write_bytes(encode(image).numpy())
    (folder / "masks" / f"{name}.png").write_bytes(png(ids, **about))


def scene(number, height=24, width=32):
    """Ids 0 to 3 in blobs, and an image whose colours tell them: red 60 times the id."""
    random = np.random.default_rng(number)
    ids = np.kron(random.integers(0, 4, (height // 4, width // 4)), np.ones((4, 4), int))
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 60 * ids
    image[..., 1] = number
    return image, ids


@pytest.fixture
def folder(tmp_path):
    """`train` with 12 scenes and `val` with 3."""
    for part, count in (("train", 12), ("val", 3)):
        for number in range(count):
            write(tmp_path / "data" / part, f"s{number}", *scene(number))
    return tmp_path / "data"


def built(path, **more):
    return mask_folder.build(path=str(path), **{"batch_size": 4, "seed": 0, "size": 16, **more})


def batches(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def same(one, other):
    for batch, again in zip(one, other, strict=True):
        for part, its in zip(batch, again, strict=True):
            np.testing.assert_array_equal(part, its)


def test_a_folder_of_images_and_masks(folder):
    data = built(folder)
    assert (data.train_examples, data.validation_examples, data.classes) == (12, 3, 4)
    assert (data.shape, data.steps_per_epoch, data.validation_source) == ((16, 16, 3), 3, "val")
    for x, y, weight in batches(data.train, 3):
        assert (x.shape, x.dtype) == ((4, 16, 16, 3), np.float32)
        assert (y.shape, y.dtype) == ((4, 16, 16), np.int32)
        assert (weight == 1).all()
        assert 0 <= x.min() <= x.max() <= 1
    assert built(folder, ignore=None).element_spec[1:] == data.element_spec[1:2]
    alone = built(folder / "train", validation_fraction=0.25)
    assert (alone.train_examples, alone.validation_examples) == (9, 3)
    assert alone.validation_source == "0.25 of the training examples"
    assert built(folder / "train").validation_examples == 1


@pytest.mark.parametrize(
    ("colour", "bits", "palette", "suffix"),
    [
        *((0, bits, b"", ".png") for bits in (1, 2, 4, 8, 16)),
        *((3, bits, PALETTE[: 3 * 2**bits], ".jpg") for bits in (1, 2, 4, 8)),
        (3, 8, PALETTE, ".bmp"),
    ],
)
def test_ids_come_out_as_they_are_stored(tmp_path, colour, bits, palette, suffix):
    ids = np.random.default_rng(bits).integers(0, min(2**bits, 300), (8, 11))
    ids[0, :2] = 0, min(2**bits, 300) - 1
    image = np.zeros((8, 11, 3), np.uint8)
    for name in ("a", "b"):
        write(tmp_path, name, image, ids, suffix=".png", colour=colour, bits=bits, palette=palette)
        if suffix != ".png":
            (tmp_path / "images" / f"{name}.png").unlink()
            content = tf.io.encode_jpeg(image).numpy() if suffix == ".jpg" else bmp(image)
            (tmp_path / "images" / f"{name}{suffix}").write_bytes(content)
    settings = {"size": [8, 11], "crop_area": None, "flip": False, "ignore": None}
    data = built(tmp_path, batch_size=2, validation_fraction=0, **settings)
    ((_, y),) = batches(data.train, 1)
    np.testing.assert_array_equal(y[0], ids)
    assert data.classes == ids.max() + 1
    np.testing.assert_array_equal(data.class_counts(), 2 * np.bincount(ids.ravel()))


def bmp(image):
    """A BMP file, which TensorFlow reads and does not write."""
    height, width, _ = image.shape
    row = (3 * width + 3) // 4 * 4
    rows = b"".join(line[:, ::-1].tobytes().ljust(row, b"\0") for line in image[::-1])
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + head + rows


def test_an_image_and_its_mask_are_cropped_and_mirrored_alike(folder):
    """Where an image's colour is not blended at an edge, it tells the label at its place."""
    data = built(folder, crop_area=0.2)
    mirrored, windows = set(), set()
    for x, y, _ in batches(data.train, 30):
        found = 255 * x[..., 0] / 60
        whole = np.abs(found - np.rint(found)) < 1e-3
        assert whole.mean() > 0.3
        # A blend of 0 and 2 may be 1: rare, as it takes the very middle.
        assert (np.rint(found)[whole] == y[whole]).mean() > 0.98
        assert set(np.unique(y)) <= {0, 1, 2, 3}
        for image in x:
            windows.add(image[..., 0].tobytes())
            mirrored.add(round(float(255 * image[0, 0, 1])))
    assert mirrored == set(range(12)), "each scene's number is in its green"
    assert len(windows) > 100, "a scene has another crop each time"


def test_half_of_the_images_are_mirrored(folder):
    still = {"crop_area": None, "shuffle": False}
    plain = batches(built(folder, flip=False, **still).train, 30)
    turned = 0
    for (x, y, _), (x2, y2, _) in zip(
        plain, batches(built(folder, **still).train, 30), strict=True
    ):
        for row in range(4):
            is_turned = not np.array_equal(x[row], x2[row])
            turned += is_turned
            np.testing.assert_array_equal(x2[row], x[row, :, ::-1] if is_turned else x[row])
            np.testing.assert_array_equal(y2[row], y[row, :, ::-1] if is_turned else y[row])
    assert 40 < turned < 80


def test_the_same_each_time_and_at_once_at_a_place(folder):
    data = built(folder)
    unbroken = batches(data.train, 9)
    same(unbroken, batches(built(folder).train, 9))
    same(unbroken[7:], batches(data.at(7), 2))
    part = [tuple(piece[1:3] for piece in batch) for batch in unbroken[5:7]]
    same(part, batches(data.at(5, 1, 3), 2))
    assert not np.array_equal(unbroken[0][0], batches(built(folder, seed=1).train, 1)[0][0])
    greens = [np.rint(255 * x[:, 0, 0, 1]) for x, *_ in unbroken]
    orders = np.concatenate(greens[:3]), np.concatenate(greens[3:6])
    assert not np.array_equal(*orders)
    assert [sorted(part) for part in orders] == [list(range(12))] * 2


def test_validation_has_the_whole_picture(folder):
    data = built(folder, size=[12, 16])
    ((x, y, _),) = batches(data.validation, 1)
    for number in range(3):
        image, ids = scene(number)
        np.testing.assert_allclose(x[number], tf.image.resize(image, (12, 16)) / 255, atol=1e-6)
        np.testing.assert_array_equal(y[number], ids[1::2, 1::2])  # nearest to the middle of 2x2


def test_ignored_pixels_have_no_weight(folder):
    for number in range(12):
        image, ids = scene(number)
        ids[ids == 3] = 255
        write(folder / "train", f"s{number}", image, ids)
    for number in range(3):
        image, ids = scene(number)
        ids[ids == 3] = 255
        write(folder / "val", f"s{number}", image, ids)
    data = built(folder, crop_area=None, flip=False)
    assert (data.classes, data.ignores) == (3, True)
    for x, y, weight in (*batches(data.train, 3), *batches(data.validation, 1)):
        ignored = weight == 0
        assert 0.1 < ignored.mean() < 0.5
        assert (y[ignored] == 0).all()
        assert set(np.unique(weight)) == {0, 1}
        assert (np.rint(255 * x[..., 0])[ignored] > 60).all()
    everything = built(folder, ignore=None)
    assert (everything.classes, everything.ignores) == (256, False)


def test_pairs_that_cannot_be_used_are_left_out_and_named(folder):
    spoil(folder)
    data = built(folder, on_error="skip", classes=4)
    assert (data.train_examples, data.bad_rows) == (6, 6)
    assert [name.partition(" ")[0] for name in data.bad_row_names] == [
        *("images/s1.png", "masks/s2.png", "masks/s3.png", "masks/s4.png", "masks/s5.png"),
        "images/s6.png",
    ]
    assert "6 of 15 rows" in data.warnings[0]
    assert len(batches(data.train, 4)) == 4


def spoil(folder):
    train = folder / "train"
    image, ids = scene(0)
    (train / "masks/s1.png").unlink()
    (train / "masks/s2.png").write_bytes(tf.io.encode_png(image).numpy())
    write(train, "s3", image, ids[:20])
    write(train, "s4", image, ids + 1)
    content = (train / "masks/s5.png").read_bytes()
    (train / "masks/s5.png").write_bytes(content[:-40])
    content = (train / "images/s6.png").read_bytes()
    (train / "images/s6.png").write_bytes(content[:-40])


def test_an_image_that_breaks_off_is_named(folder):
    content = (folder / "train/images/s6.png").read_bytes()
    (folder / "train/images/s6.png").write_bytes(content[:-40])
    data = built(folder)
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(data.train, 3)
    assert data.locate() == f"images/s6.png of {folder}/train"


def test_other_files_are_told_of(folder):
    (folder / "train/images/notes.txt").write_text("x")
    shutil.copy(folder / "val/masks/s0.png", folder / "val/masks/z.png")
    assert built(folder).warnings == (
        f"1 files in {folder}/train/images are no images: 1 .txt",
        f"1 masks in {folder}/val have no image: z.png first",
    )


def test_a_mask_is_the_png_whatever_lies_beside_it(folder):
    before = built(folder).fingerprint
    for name in ("s0.json", "s0.PNX", "s0.txt"):
        (folder / "train/masks" / name).write_text("x")
    assert built(folder).fingerprint == before


def test_the_fingerprint_is_that_of_the_files(folder, tmp_path):
    before = built(folder).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert built(tmp_path / "copy").fingerprint == before
    image, ids = scene(3)
    ids[:] = ids[::-1].copy()
    ids[0] = np.arange(32) % 4
    write(folder / "train", "s0", image, ids)
    assert built(folder).fingerprint != before


def test_a_mask_of_another_size_is_not_decoded(folder):
    """It may be gigabytes of few bytes. That its pixels are broken is not seen."""
    file = folder / "train" / "masks" / "s1.png"
    file.write_bytes(png(np.zeros((600, 700), np.uint8))[:60])
    with pytest.raises(ConfigurationError, match="has 600x700 pixels"):
        built(folder)


def no_mask(folder):
    (folder / "train/masks/s1.png").unlink()


def other_size(folder):
    image, ids = scene(0)
    write(folder / "val", "s2", image, ids[:, :30])


def colours(folder):
    (folder / "train/masks/s2.png").write_bytes(tf.io.encode_png(scene(0)[0]).numpy())


def transparent(folder):
    grey = np.zeros((24, 32, 2), np.uint8)
    (folder / "train/masks/s2.png").write_bytes(tf.io.encode_png(grey).numpy())


def jpeg(folder):
    (folder / "train/masks/s2.png").unlink()
    (folder / "train/masks/s2.jpg").write_bytes(tf.io.encode_jpeg(scene(0)[0]).numpy())


def beyond(folder):
    image, ids = scene(0)
    ids[3, 4] = 9
    write(folder / "train", "s4", image, ids)


def cut_short(folder):
    content = (folder / "train/masks/s5.png").read_bytes()
    (folder / "train/masks/s5.png").write_bytes(content[:60])


def empty(folder):
    (folder / "train/masks/s5.png").write_bytes(b"")


def of_no_bits(folder):
    content = bytearray((folder / "train/masks/s5.png").read_bytes())
    content[24] = 0  # bits of a pixel
    (folder / "train/masks/s5.png").write_bytes(content)


def in_a_circle(folder):
    (folder / "train/masks/s5.png").unlink()
    (folder / "train/masks/s5.png").symlink_to("s5.png")


def two_images(folder):
    shutil.copy(folder / "train/images/s0.png", folder / "train/images/s0.jpg")


def no_masks(folder):
    shutil.rmtree(folder / "val/masks")


def no_images(folder):
    for file in (folder / "train/images").iterdir():
        file.unlink()


def white(folder):
    for part in ("train", "val"):
        for file in (folder / part / "masks").iterdir():
            write(folder / part, file.stem, *(scene(0)[0], 255 * (scene(0)[1] > 1)))


@pytest.mark.parametrize(
    ("change", "words", "where", "says"),
    [
        (no_mask, {}, "images/s1.png", "images/s1.png has no mask"),
        (other_size, {}, "masks/s2.png", "has 24x30 pixels, its image s2.png 24x32"),
        (colours, {}, "masks/s2.png", "masks/s2.png holds colours (RGB), not one id"),
        (transparent, {}, "masks/s2.png", "masks/s2.png holds a grey and a transparency"),
        (jpeg, {}, "masks/s2.jpg", "masks/s2.jpg is no PNG file"),
        (beyond, {"classes": 4}, "masks/s4.png", "has the id 9, and there are 4 classes"),
        (cut_short, {}, "masks/s5.png", "masks/s5.png cannot be decoded"),
        (empty, {}, "masks/s5.png", "masks/s5.png is no PNG file"),
        (of_no_bits, {}, "masks/s5.png", "masks/s5.png has pixels of 0 bits"),
        (in_a_circle, {}, "images/s5.png", "images/s5.png has no mask"),
        (two_images, {}, "images/s0.png", "has the same mask as s0.jpg"),
        (no_masks, {}, "dataset.path", "val has no folder masks"),
        (no_images, {}, "dataset.path", "has no images"),
        (white, {}, "dataset.ignore", "hold the id 0 alone beside 255, which is ignored"),
        (None, {"path": "absent"}, "dataset.path", "not a folder"),
        (None, {"classes": 1}, "dataset.classes", "2 to 65536"),
        (None, {"classes": 3}, "masks/s0.png", "has the id 3, and there are 3 classes"),
        (None, {"ignore": -1}, "dataset.ignore", "0 to 65535"),
        (None, {"size": [16]}, "dataset.size", "height, width"),
        (None, {"crop_area": 0}, "dataset.crop_area", "above 0"),
        (None, {"batch_size": 13}, "batch_size", "13"),
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
