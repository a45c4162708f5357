"""Some rows of each batch, as a worker takes them that trains with others."""

import numpy as np
import pytest
import tensorflow as tf
from shards_of_images import record, write

from mpt.data import arrays, image_folder, tfrecord


def folder(path, **more):
    for number in range(24):
        file = path / "train" / f"class{number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((12, 12, 3), 10 * number, np.uint8)
        file.write_bytes(tf.io.encode_png(image).numpy())
    return image_folder.build(path=str(path), batch_size=6, seed=3, size=8, **more)


def shards(path, **more):
    for shard in range(2):
        content = [record(1 + n % 3, 8 * n) for n in range(12 * shard, 12 * shard + 12)]
        write(path / f"train-{shard:05d}-of-00002", content)
    return tfrecord.build(path=str(path), batch_size=6, seed=3, size=8, classes=3, **more)


def from_file(path, **more):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    np.savez(path / "a.npz", x=x, y=np.arange(40) % 3)
    return arrays.build(path=str(path / "a.npz"), batch_size=6, seed=3, **more)


@pytest.mark.parametrize("source", [folder, shards, from_file])
@pytest.mark.parametrize("position", [0, 3, 9])
@pytest.mark.parametrize("rows", [(0, 3), (3, 6), (2, 4), (0, 6)])
def test_they_are_those_of_the_whole_batch(tmp_path, source, position, rows):
    data = source(tmp_path)
    whole = data.at(position).take(7)
    own = data.at(position, *rows).take(7)
    for (x, y), (x2, y2) in zip(whole, own, strict=True):
        assert len(y2) == rows[1] - rows[0]
        np.testing.assert_array_equal(x[rows[0] : rows[1]], x2)
        np.testing.assert_array_equal(y[rows[0] : rows[1]], y2)
    assert own.element_spec[0].shape[0] in (rows[1] - rows[0], None)


def test_others_are_not_decoded(tmp_path):
    data = folder(tmp_path, shuffle=False)
    broken = sorted((tmp_path / "train").rglob("*.png"))[1]
    broken.write_bytes(b"no image")
    list(data.at(0, 2, 6).take(1))
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(data.at(0).take(1))


def test_mixtures_are_made_of_them(tmp_path):
    data = folder(tmp_path, mixup=0.3)
    for x, y in data.at(2, 1, 4).take(3):
        assert x.shape == (3, 8, 8, 3)
        np.testing.assert_allclose(tf.reduce_sum(y, -1), 1, rtol=1e-6)
