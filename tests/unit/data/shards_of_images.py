"""TFRecord shards of small images."""

import numpy as np
import tensorflow as tf


def record(label, shade, size=(12, 16)):
    image = np.full((*size, 3), shade, np.uint8)
    features = {
        "image/encoded": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[tf.io.encode_png(image).numpy()])
        ),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(file, records):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for each in records:
            writer.write(each)
