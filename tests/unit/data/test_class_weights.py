"""Weights of the classes, held against Keras's `fit(class_weight=...)`."""

import keras
import numpy as np
import pytest
from shards_of_images import record, write

from mpt.data import arrays, class_weights, image_folder, text, tfrecord
from mpt.errors import ConfigurationError

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((40, 6)).astype(np.float32)
Y = np.repeat([0, 1, 2], [24, 12, 4]).astype(np.int64)
GIVEN = {0: 0.25, 2: 3.0}  # 1 is left out


def built(path, **more):
    np.savez(path / "data.npz", x=X, y=more.pop("y", Y))
    settings = {"batch_size": 10, "seed": 0, "validation_fraction": 0.0, **more}
    return arrays.build(path=str(path / "data.npz"), **settings)


def model():
    keras.utils.set_random_seed(0)
    made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    made.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    return made


@pytest.mark.parametrize("given", [GIVEN, [0.25, 1.0, 3.0]])
def test_a_training_is_that_of_fit(tmp_path, given):
    data = built(tmp_path)
    ours, theirs, plain = model(), model(), model()
    weighted = class_weights.weighted(data, given)
    for step in range(12):
        x, y, weights = next(iter(weighted.at(step).take(1)))
        ours.train_on_batch(x, y, weights)
    settings = {"steps_per_epoch": 4, "epochs": 3, "verbose": 0, "shuffle": False}
    theirs.fit(data.train, class_weight=GIVEN, **settings)
    plain.fit(data.train, **settings)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert abs(ours.get_weights()[0] - plain.get_weights()[0]).max() > 0.01


def test_validation_and_the_rest_of_the_data_stay_as_they_are(tmp_path):
    data = built(tmp_path, validation_fraction=0.25)
    weighted = class_weights.weighted(data, GIVEN)
    assert weighted.validation is data.validation
    assert len(weighted.element_spec) == 3
    assert class_weights.weighted(data, None) is data
    for number, (x, y, w) in enumerate(weighted.train.take(5)):
        x2, y2 = next(iter(data.at(number)))
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
        assert list(w.numpy()) == [{0: 0.25, 1: 1.0, 2: 3.0}[int(label)] for label in y]


def test_balanced_is_examples_over_classes_times_examples_of_the_class(tmp_path):
    labels = np.where(Y == 2, 3, Y)  # no example of class 2
    weighted = class_weights.weighted(built(tmp_path, y=labels, batch_size=40), "balanced")
    _, y, w = next(iter(weighted.train))
    expected = {0: 40 / (3 * 24), 1: 40 / (3 * 12), 3: 40 / (3 * 4)}
    np.testing.assert_allclose(w, [expected[int(label)] for label in y], rtol=1e-6)
    assert np.sum(w) == pytest.approx(40)


def test_every_place_of_a_text_has_the_weight_of_its_token(tmp_path):
    (tmp_path / "text").write_bytes(bytes([0, 1, 1, 2] * 30))
    data = text.build(path=str(tmp_path / "text"), batch_size=3, seed=0, length=8)
    _, y, w = next(iter(class_weights.weighted(data, {1: 0.5}).train))
    np.testing.assert_array_equal(w, np.where(y == 1, 0.5, 1.0))
    counts = data.class_counts()
    assert counts[:4].tolist() == [26, 52, 26, 0]
    assert counts.sum() == 8 * data.train_examples


def test_the_classes_of_files_are_counted(tmp_path):
    for name, count in (("a", 3), ("b", 6)):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for number in range(count):
            image = np.full((8, 8, 3), number, np.uint8)
            keras.utils.save_img(tmp_path / "folder" / name / f"{number}.png", image)
    settings = {"batch_size": 2, "seed": 0, "size": 8}
    data = image_folder.build(path=str(tmp_path / "folder"), validation_fraction=0.0, **settings)
    assert data.class_counts().tolist() == [3, 6]
    write(tmp_path / "train-00000-of-00001", [record(1 + number % 3, 9) for number in range(7)])
    data = tfrecord.build(path=str(tmp_path), classes=4, **settings)
    assert data.class_counts().tolist() == [3, 2, 2, 0]


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        ([1.0, 2.0], "class_weight", "2 weights for 3 classes"),
        ({3: 1.0}, "class_weight.3", "no class 3"),
        ({-1: 1.0}, "class_weight.-1", "no class -1"),
        ({"a": 1.0}, "class_weight.a", "no class a"),
        ([1.0, -2.0, 1.0], "class_weight[1]", "-2.0"),
        ({1: float("nan")}, "class_weight.1", "nan"),
        ({1: True}, "class_weight.1", "True"),
        ("balancd", "class_weight", "balanced"),
        (2.0, "class_weight", "2.0"),
    ],
)
def test_unfit_weights_are_refused(tmp_path, given, where, says):
    with pytest.raises(ConfigurationError) as error:
        class_weights.weighted(built(tmp_path), given)
    assert error.value.where == where
    assert says in str(error.value)


def test_labels_that_are_no_classes_are_refused(tmp_path):
    data = built(tmp_path, y=Y.astype(np.float32))
    with pytest.raises(ConfigurationError, match="no classes"):
        class_weights.weighted(data, GIVEN)
    once = class_weights.weighted(built(tmp_path), GIVEN)
    with pytest.raises(ConfigurationError, match="weights of their own"):
        class_weights.weighted(once, GIVEN)


def test_mixtures_are_refused(tmp_path):
    write(tmp_path / "train-00000-of-00001", [record(1 + number % 3, 9) for number in range(7)])
    data = tfrecord.build(path=str(tmp_path), classes=3, batch_size=2, seed=0, size=8, mixup=0.2)
    with pytest.raises(ConfigurationError, match=r"dataset\.mixup"):
        class_weights.weighted(data, GIVEN)
