"""What replicas share and what they do not, without several devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import replicas
from mpt.errors import ConfigurationError
from mpt.loss_scale import LossScaleOptimizer
from mpt.replicas import _shares


def rows(dataset):
    return [tf.nest.map_structure(lambda t: t.numpy().tolist(), batch) for batch in dataset]


@pytest.mark.parametrize(("members", "local"), [(2, 1), (3, 1), (2, 2), (1, 4)])
def test_members_take_all_rows_of_a_batch_in_their_order(members, local):
    x = np.arange(30).reshape(30, 1)
    data = tf.data.Dataset.from_tensor_slices(({"a": x, "b": -x}, x[:, 0])).batch(12)
    count = members * local
    each = [rows(_shares(data, count, rank * local, local)) for rank in range(members)]
    assert [len(shares) for shares in each] == [3 * local] * members  # 12, 12 and 6 rows
    for number, (inputs, labels) in enumerate(rows(data)):
        whole = [s for shares in each for s in shares[number * local : (number + 1) * local]]
        assert [row for share in whole for row in share[0]["a"]] == inputs["a"]
        assert [row for share in whole for row in share[0]["b"]] == inputs["b"]
        assert [row for share in whole for row in share[1]] == labels
        sizes = [len(share[1]) for share in whole]
        assert max(sizes) - min(sizes) <= 1


def test_shares_keep_their_size_where_it_is_known():
    data = tf.data.Dataset.from_tensor_slices(np.zeros((8, 3), "float32")).batch(8, True)
    shares = _shares(data.map(lambda x: (x, x)), 4, 0, 1)
    assert [tuple(spec.shape) for spec in shares.element_spec] == [(2, 3), (2, 3)]


def test_means_of_equal_values_are_exact():
    variable = keras.Variable(0.0)
    value = np.float32([0.1, 1e-38, 3.3333333e37, -7.7])
    for count in (2, 3, 5, 7):
        np.testing.assert_array_equal(replicas.merged(variable, [value] * count), value)
    assert replicas.merged(keras.Variable(0, dtype="int32"), [np.int32(3), np.int32(5)]) == 3


def test_a_sum_goes_to_the_first_replica():
    total = keras.metrics.Sum()
    total.update_state(1.0)
    parts = replicas.shared_out(total.total, [np.float32(2), np.float32(3)], 3)
    assert [float(part) for part in parts] == [5.0, 0.0, 0.0]


def test_what_differs_is_neither_weights_nor_slots():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, name="dense"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.5),
        ]
    )
    optimizer = LossScaleOptimizer(keras.optimizers.Adam(), mode="dynamic")
    model.compile(optimizer, "mse", metrics=["mae"], auto_scale_loss=False)
    model._symbolic_build(data_batch=(np.zeros((2, 3)), np.zeros((2, 2))))
    optimizer.build(model.trainable_variables)
    names = {variable.path for variable in replicas.differing(model)}
    names = {"/".join(name.split("/")[-2:]) for name in names}
    assert {"norm/moving_mean", "norm/moving_variance"} <= names
    assert any("seed" in name for name in names)
    assert any("mae" in name or "total" in name for name in names)
    assert not any(name.startswith(("dense/", "adam/")) or "scale" in name for name in names)
    assert not {"norm/gamma", "norm/beta"} & names


def test_a_batch_is_a_multiple_of_the_replicas():
    class Three:
        num_replicas_in_sync = 3

    replicas.check_batch(6, Three())
    with pytest.raises(ConfigurationError, match="batch_size=8 cannot be shared evenly by 3"):
        replicas.check_batch(8, Three())
