"""What TensorFlow Datasets has prepared: what is read, in which order, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets
from prepared import images, prepare

from mpt.data import tfds
from mpt.errors import ConfigurationError

FEATURES = tensorflow_datasets.features
PLAIN = {"crop_area": None, "flip": False}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """27 training images in three shards, five for test in one; shade 5 x number."""
    root = tmp_path_factory.mktemp("prepared")
    prepare(root, {"train": images(range(27)), "test": images(range(30, 35))}, shards=3)
    return root


@pytest.fixture
def root(written, tmp_path):
    """A copy, to be broken."""
    shutil.copytree(written, tmp_path / "data")
    return tmp_path / "data"


def built(root, **more):
    settings = {"name": "shapes", "batch_size": 4, "seed": 0, "size": 8, **more}
    return tfds.build(data_dir=str(root), **settings)


def batches(dataset, count):
    return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]


def shades(found):
    return np.concatenate([np.round(x.mean((1, 2, 3)) * 51).astype(int) for x, _ in found])


def refused(root, **more):
    with pytest.raises(ConfigurationError) as error:
        built(root, **more)
    return error.value


def test_prepared_images(written):
    data = built(written)
    assert (data.train_examples, data.validation_examples, data.steps_per_epoch) == (27, 5, 6)
    assert (data.shape, data.classes, data.validation_source) == ((8, 8, 3), 3, "test")
    assert (data.name, data.warnings, data.bad_rows) == ("shapes", (), 0)
    assert list(data.class_counts()) == [9, 9, 9]
    found = batches(data.train, 6)
    assert (found[0][0].dtype, found[0][1].dtype) == (np.float32, np.int32)
    numbers = shades(found)
    assert len(set(numbers)) == 24
    assert set(numbers) <= set(range(27))
    assert np.array_equal(np.concatenate([y for _, y in found]), numbers % 3)
    held_out = batches(data.validation, 4)
    assert [len(y) for _, y in held_out] == [4, 1, 4, 1]
    assert sorted(shades(held_out)[:5]) == [30, 31, 32, 33, 34]


@pytest.mark.parametrize(
    "split", ["train", "train[:50%]", "train[3:20]", "train[-4:]", "train[8:10]+test", "all"]
)
def test_a_split_holds_what_the_package_itself_reads(written, split):
    reference = tensorflow_datasets.builder_from_directory(str(written / "shapes/1.0.0"))
    expected = [
        (int(image[0, 0, 0]) // 5, int(label))
        for image, label in reference.as_dataset(
            split=split, as_supervised=True
        ).as_numpy_iterator()
    ]
    data = built(written, validation_split=split, split="train", shuffle=False)
    assert data.validation_examples == len(expected)
    found = batches(data.validation, data.validation_batches)
    labels = np.concatenate([y for _, y in found])
    assert sorted(zip(shades(found), labels, strict=True)) == sorted(expected)


def test_examples_in_both_splits_are_told(written):
    data = built(written, split="train[:15]", validation_split="train[12:]")
    assert (data.train_examples, data.validation_examples) == (15, 15)
    assert "3 of the 15 validation examples are training examples" in data.warnings[0]
    assert built(written, split="train[:15]", validation_split="train[15:]").warnings == ()


def test_the_order_is_that_of_the_seed_and_the_epoch(written):
    one, again = (shades(batches(built(written).train, 12)) for _ in range(2))
    assert list(one) == list(again)
    assert list(one[:24]) != list(one[24:])
    assert list(one) != list(shades(batches(built(written, seed=1).train, 12)))


@pytest.mark.parametrize(
    "position", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 13))]
)
def test_it_goes_to_a_place(written, position):
    settings = {"mixup": 0.3, "cutmix": 1.0, "randaugment": 2, "split": "train[1:26]"}
    data = built(written, **settings)
    unbroken = batches(data.train, 16)[position : position + 3]
    for (x, y), (x2, y2) in zip(unbroken, batches(data.at(position), 3), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_some_rows_of_a_batch(written):
    data = built(written)
    for (x, y), (x2, y2) in zip(batches(data.at(4), 5), batches(data.at(4, 1, 3), 5), strict=True):
        np.testing.assert_array_equal(x[1:3], x2)
        np.testing.assert_array_equal(y[1:3], y2)


def small(channels=1, encoding="png"):
    return FEATURES.FeaturesDict(
        {
            "image": FEATURES.Image(shape=(12, 16, channels), encoding_format=encoding),
            "label": FEATURES.ClassLabel(num_classes=3),
        }
    )


def test_without_a_size_images_are_as_they_are(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 1), np.uint8)
    examples = [(i, {"image": image, "label": i % 3}) for i, image in enumerate(random)]
    prepare(tmp_path, {"train": examples}, features=small())
    data = built(tmp_path, size=None, shuffle=False)
    assert (data.shape, data.validation, data.validation_source) == ((12, 16, 1), None, "none")
    x = np.concatenate([x for x, _ in batches(data.train, 2)])
    expected = {image.tobytes() for image in random}
    assert {np.round(image * 255).astype(np.uint8).tobytes() for image in x} == expected
    np.testing.assert_allclose(x * 255, np.round(x * 255), atol=1e-4)
    assert built(tmp_path, size=None, channels=3).shape == (12, 16, 3)


def test_jpegs(tmp_path):
    features = small(3, "jpeg")
    prepare(tmp_path, {"train": images(range(8))}, features=features)
    data = built(tmp_path, shuffle=False)
    found = batches(data.train, 2)
    assert sorted(shades(found)) == list(range(8))


def test_features_by_name(tmp_path):
    examples = [(key, {**each, "id": key}) for key, each in images(range(6))]
    features = FEATURES.FeaturesDict({**small(3), "id": np.int64})
    prepare(tmp_path, {"train": examples}, features=features, supervised=None)
    error = refused(tmp_path)
    assert error.where == "dataset.image_key"
    assert error.allowed == ["id", "image", "label"]
    found = batches(built(tmp_path, image_key="image", label_key="label").train, 1)
    assert set(shades(found)) <= set(range(6))
    np.testing.assert_array_equal(shades(found) % 3, found[0][1])
    for keys, where, says in (
        ({"image_key": "id", "label_key": "label"}, "dataset.image_key", "not an image"),
        ({"image_key": "image", "label_key": "id"}, "dataset.label_key", "not a class label"),
        ({"image_key": "image", "label_key": "lable"}, "dataset.label_key", "'label'?"),
    ):
        error = refused(tmp_path, **keys)
        assert error.where == where
        assert says in str(error)


def test_wide_images_are_refused(tmp_path):
    image = FEATURES.Image(shape=(4, 4, 1), dtype=np.uint16, encoding_format="png")
    features = FEATURES.FeaturesDict({"image": image, "label": FEATURES.ClassLabel(num_classes=3)})
    examples = [(i, {"image": np.zeros((4, 4, 1), np.uint16), "label": 0}) for i in range(4)]
    prepare(tmp_path, {"train": examples}, features=features)
    assert "uint16" in str(refused(tmp_path))


def test_other_files_than_tfrecords_are_refused(tmp_path):
    prepare(tmp_path, {"train": images(range(4))}, file_format="array_record")
    error = refused(tmp_path)
    assert "array_record" in str(error)
    assert error.allowed == ["tfrecord"]


def test_the_newest_version_and_the_only_configuration(tmp_path):
    for version, count in (("1.9.0", 4), ("1.10.0", 5), ("2.0.0", 6)):
        examples = {"train": images(range(count))}
        prepare(tmp_path, examples, name="one", config="small", version=version)
    for words, count in (
        ({}, 6),
        ({"config": "small"}, 6),
        ({"version": "1.*.*"}, 5),
        ({"config": "small", "version": "1.9.0"}, 4),
    ):
        data = built(tmp_path, name="one", **words)
        assert (data.name, data.train_examples) == ("one", count)
    prepare(tmp_path, {"train": images(range(7))}, name="one", config="large")
    assert refused(tmp_path, name="one").allowed == ["large", "small"]
    assert built(tmp_path, name="one", config="large").train_examples == 7
    error = refused(tmp_path, name="mnist", config="a", version="1.2.3")
    assert "mnist/a:1.2.3 is not prepared" in str(error)


@pytest.mark.parametrize("lost", [1, 40])
def test_a_truncated_shard(root, lost):
    file = root / "shapes/1.0.0/shapes-train.tfrecord-00001-of-00003"
    file.write_bytes(file.read_bytes()[:-lost])
    error = refused(root)
    assert error.where == str(file)
    assert "ends after 8 whole records, and 9 are to be read" in str(error)
    data = built(root, on_error="skip")
    assert (data.train_examples, data.bad_rows) == (26, 1)
    assert data.bad_row_names == (f"{file.name} ends after 8 whole records",)
    assert len(batches(data.train, 12)) == 12
    assert built(root, split="train[:15]", validation_split="train[18:]").bad_rows == 0


def test_a_shard_that_is_not_there(root):
    file = root / "shapes/1.0.0/shapes-train.tfrecord-00002-of-00003"
    file.unlink()
    assert f"{file.name} is not there" in str(refused(root))
    data = built(root, on_error="skip")
    assert (data.train_examples, data.bad_rows) == (18, 9)


def test_a_label_that_is_unknown_ends_the_run(tmp_path):
    examples = [(0, {"image": np.zeros((4, 4, 3), np.uint8), "label": -1})]
    prepare(tmp_path, {"train": examples})
    with pytest.raises(tf.errors.InvalidArgumentError, match="label outside"):
        batches(built(tmp_path, batch_size=1).train, 1)


def test_the_fingerprint_is_that_of_the_records(root, written):
    one = built(written).fingerprint
    assert built(root).fingerprint == one
    assert built(root, split="train[1:]").fingerprint != one
    assert built(root, split="train[:26]").fingerprint != built(root, split="train[1:]").fingerprint


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ({"name": "mnits"}, "dataset.name", "did you mean 'mnist'"),
        ({"name": "shape"}, "dataset.name", "did you mean 'shapes'"),
        ({"name": "mnist"}, "dataset.data_dir", "dataset.download=true"),
        ({"name": "../shapes"}, "dataset.name", "no name of a dataset"),
        ({"name": "shapes:1.0.0"}, "dataset.name", "dataset.version"),
        ({"name": "shapes/a=1"}, "dataset.name", "no name of a dataset"),
        ({"config": ".."}, "dataset.config", "no config of a dataset"),
        ({"config": "a/b"}, "dataset.config", "no config of a dataset"),
        ({"version": ".."}, "dataset.version", "no version of a dataset"),
        ({"version": "1.0"}, "dataset.version", "no version of a dataset"),
        ({"split": "tran"}, "dataset.split", "did you mean 'train'"),
        ({"split": "train[:x%]"}, "dataset.split", "is no split"),
        ({"split": "train[:200%]"}, "dataset.split", "is no split"),
        ({"split": "train+valid"}, "dataset.split", "no split 'valid'"),
        ({"validation_split": "valid"}, "dataset.validation_split", "no split 'valid'"),
        ({"split": "train[:0]"}, "batch_size", "0 training examples"),
        ({"size": None}, "dataset.size", "different sizes"),
        ({"size": 0}, "dataset.size", "1 or more"),
        ({"channels": 2}, "dataset.channels", "1 or 3"),
        ({"batch_size": 28}, "batch_size", "28"),
        ({"image_key": "picture"}, "dataset.image_key", "no feature 'picture'"),
    ],
)
def test_bad_input(written, words, where, says):
    error = refused(written, **words)
    assert error.where == where
    assert says in str(error)


def test_a_folder_that_is_not_there(tmp_path):
    error = refused(tmp_path / "absent")
    assert error.where == "dataset.data_dir"
    assert "there is no folder" in str(error)


def test_a_misspelt_name_is_told_where_nothing_was_ever_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "absent"))
    for name, says in (("mnits", "did you mean 'mnist'"), ("mnist", "dataset.download=true")):
        with pytest.raises(ConfigurationError, match=says):
            tfds.build(name=name, batch_size=4, seed=0)


def test_features_that_are_no_mapping_are_refused(tmp_path):
    features = FEATURES.Sequence(small(3))
    examples = [(0, [each for _, each in images(range(4))])]
    prepare(tmp_path, {"train": examples}, features=features, supervised=None)
    assert refused(tmp_path).where == "dataset.image_key"
    error = refused(tmp_path, image_key="image", label_key="label")
    assert "no feature 'image'" in str(error)


def test_a_run(mpt, written):
    done = mpt(
        *("train", "dataset=tfds", "dataset.name=shapes", f"dataset.data_dir={written}"),
        *("dataset.size=16", "dataset.cutmix=1", "dataset.randaugment=1", "model=cnn"),
        *("dataset.version=1.*.*", "dataset.split='train[:70%]+test'"),
        *(
            "dataset.validation_split='train[70%:]'",
            "model.filters=2",
            "device=cpu",
            "batch_size=4",
            "trainer.steps=4",
        ),
        *("trainer.epochs=null", "telemetry.tensorboard=false", "run_dir=run"),
    )
    assert done.code == 0, done.err
    assert "data         shapes, 24 training and 8 validation examples" in done.out + done.err
    assert "warning" not in (done.out + done.err).lower()
    report = json.loads(Path("run/report.json").read_text())
    assert (report["data"]["name"], report["data"]["train_examples"]) == ("shapes", 24)


def test_the_folder_of_the_environment(written, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(written))
    data = tfds.build(name="shapes", batch_size=4, seed=0, size=8)
    assert data.train_examples == 27


@pytest.mark.parametrize(
    "name", ["huggingface:mnist", "kaggle:some_dataset", "user-1:20ds/config:1.0.0"]
)
def test_a_community_s_dataset_is_refused_before_the_package_is_there(monkeypatch, written, name):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    error = refused(written, name=name, download=True)
    assert error.where == "dataset.name"
    assert "would be downloaded and run" in str(error)
    assert "--allow" in error.remedy


def test_without_the_package(monkeypatch, written):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    error = refused(written)
    assert error.where == "dataset"
    assert error.remedy == "pip install tensorflow-datasets importlib_resources"


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node["featuresDict"]["features"]["image"].update(
            pythonClassName="foreign_feature.Image"
        ),
        lambda node: node["featuresDict"]["features"].update(
            other={"python_class_name": "foreign_feature.Image", "image": {}}
        ),
        lambda node: (node.clear(), node.update(type="foreign_feature.Image", content={})),
    ],
)
def test_a_feature_of_others_is_never_imported(root, tmp_path, monkeypatch, change):
    (tmp_path / "foreign_feature.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = root / "shapes/1.0.0/features.json"
    node = json.loads(file.read_text())
    change(node)
    file.write_text(json.dumps(node))
    error = refused(root)
    assert error.where == str(file)
    assert "foreign_feature.Image is not a feature of TensorFlow Datasets' own" in str(error)
    assert not (tmp_path / "ran").exists()
    # What the package does without the check: so the test would see an import.
    with pytest.raises(ValueError, match=r"."):
        tensorflow_datasets.builder_from_directory(str(file.parent))
    assert (tmp_path / "ran").exists()
    sys.modules.pop("foreign_feature")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 5000, b"[]", b"\xff\xfe", b"null"])
def test_broken_descriptions(root, name, content):
    (root / "shapes/1.0.0" / name).write_bytes(content)
    error = refused(root)
    assert error.where.startswith(str(root / "shapes/1.0.0"))
    assert error.remedy == "prepare the dataset again"


def offline(monkeypatch):
    """No network, as requests tells it."""

    def unreachable(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", unreachable)


def test_without_a_network_nothing_is_downloaded(tmp_path, monkeypatch, capfd):
    offline(monkeypatch)
    error = refused(tmp_path / "new", name="mnist", download=True)
    assert error.where == "dataset.download"
    assert "does not answer" in str(error)
    assert "tfds build" in error.remedy
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr().out == ""


def test_what_is_prepared_is_not_downloaded_again(written, monkeypatch):
    offline(monkeypatch)
    assert built(written, download=True).train_examples == 27


def stands_in(monkeypatch, build):
    """`build(data_dir)` for a dataset of the package's own, by the name fresh."""
    monkeypatch.setattr(tensorflow_datasets, "list_builders", lambda **_: ["fresh"])
    monkeypatch.setattr(
        tensorflow_datasets, "builder", lambda name, *, data_dir: build(Path(data_dir))
    )
    monkeypatch.setattr(tensorflow_datasets, "disable_progress_bar", lambda: None)


def test_what_is_not_there_is_prepared(tmp_path, monkeypatch, capfd):
    def build(folder):
        return prepare(folder, {"train": images(range(9))}, name="fresh", prepared=False)

    stands_in(monkeypatch, build)
    assert "not prepared" in str(refused(tmp_path, name="fresh"))
    data = built(tmp_path / "new", name="fresh", download=True, shuffle=False)
    assert data.train_examples == 9
    said = capfd.readouterr()
    assert said.out == ""
    assert "fresh" in said.err


def test_what_cannot_be_prepared(tmp_path, monkeypatch):
    def build(folder):
        raise AssertionError("Manual download required.\nPut ILSVRC2012 into ...")

    stands_in(monkeypatch, build)
    error = refused(tmp_path, name="fresh", download=True)
    assert "could not prepare fresh: Manual download required. Put ILSVRC2012" in str(error)
