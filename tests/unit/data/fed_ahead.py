"""Batches that wait on a second CPU, which stands in for a GPU: `fed_ahead.py ARRAYS`."""

import sys

import numpy as np
import tensorflow as tf

from mpt.data import arrays, feeding
from mpt.loop import TrainLoop

STEPS = 5
AHEAD = "/CPU:1"


def first(dataset, count=STEPS):
    return list(dataset.take(count))


def check_batches(data, fed):
    for place in (0, STEPS):
        expected, given = first(data.at(place)), first(fed.at(place))
        for (x, y), (x2, y2) in zip(expected, given, strict=True):
            np.testing.assert_array_equal(x, x2)
            np.testing.assert_array_equal(y, y2)


def trained(data):
    """What a loop on the second CPU makes of the batches, and the rows that it measured."""
    with tf.device(AHEAD):
        weights, labels = tf.Variable(tf.ones((4, 4, 1))), tf.Variable(0)

    def step(batch):
        x, y = batch
        weights.assign(0.5 * weights + tf.reduce_mean(x, 0))
        labels.assign(3 * labels + tf.reduce_sum(y))

    loop = TrainLoop(
        step, lambda: {"loss": tf.reduce_sum(weights.read_value())}, iter(data.train), rows=8
    )
    assert loop.run(2) == 2
    assert loop.run(STEPS - 2) == STEPS - 2
    rows = loop.drain()
    assert set(rows) == {"loss", "data_wait"}
    loop.restart(iter(data.at(STEPS)))
    loop.run(2)
    return weights.numpy(), labels.numpy(), rows["loss"], loop.drain()["loss"]


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    data = arrays.build(path=sys.argv[1], batch_size=8, seed=0, validation_fraction=0.25)
    fed = feeding.fed(data, device=AHEAD, first_cast=None, ahead=2)
    assert fed.element_spec == data.element_spec
    check_batches(data, fed)
    for one, other in zip(trained(data), trained(fed), strict=True):
        np.testing.assert_array_equal(one, other)
    sizes = [len(y) for _, y in first(fed.validation, 4)]
    assert sizes == [8, 2, 8, 2], sizes
    print("done")


if __name__ == "__main__":
    main()
