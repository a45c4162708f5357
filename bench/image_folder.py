"""Batches of a folder of JPEG files: mpt's pipeline, and one written by hand with tf.data.

    python -m bench.image_folder SIDE FOLDER BATCHES

Both decode random-resized crops of 224x224, mirror half of them, and give float32 in [0, 1]. The
peer is what a script of one's own would do: TensorFlow's stateful random operations, shuffling in a
buffer of all files, and as much parallelism as AUTOTUNE takes. Prints one JSON line, ms a batch.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import compared, in_turn, last_json, processor

BATCH, SIZE = 64, 224
CLASSES, FILES = 4, 128  # files a class
HEIGHT, WIDTH = 375, 500  # pixels, of the usual image of ImageNet
BATCHES = 100
WARMUP = 20  # batches: more than either prefetches


def case(rounds: int) -> dict:
    """ms a batch of both pipelines, in fresh processes; and of processor time."""
    spent: dict[str, list[float]] = {"mpt": [], "by hand": []}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))

        def timed(side: str) -> float:
            took = measured(side, folder)
            spent[side].append(took["cpu_ms"])
            return took["batch_ms"]

        times = in_turn({side: lambda side=side: timed(side) for side in spent}, rounds)
    return {
        **compared(times, "mpt", "by hand", 1.0),
        "cpu_ms": {side: median(values) for side, values in spent.items()},
        **processor(spent, "mpt", "by hand"),
    }


def write(folder: Path) -> None:
    """JPEG files as large as photographs: smooth shapes with some grain."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(FILES):
            coarse = random.uniform(0, 255, (12, 16, 3)).astype("float32")
            smooth = tf.image.resize(coarse, (HEIGHT, WIDTH), "bicubic").numpy()
            image = smooth + random.normal(0, 8, smooth.shape)
            content = tf.io.encode_jpeg(np.clip(image, 0, 255).astype("uint8"), quality=90)
            (folder / f"class{label}" / f"{number:03d}.jpg").write_bytes(content.numpy())


def measured(side: str, folder: str) -> dict[str, float]:
    """ms a batch, and ms of processor time."""
    return last_json([sys.executable, "-m", "bench.image_folder", side, folder, str(BATCHES)])


def ours(folder: Path) -> Iterator[Any]:
    from mpt.data import image_folder

    data = image_folder.build(
        path=str(folder), batch_size=BATCH, seed=0, size=SIZE, validation_fraction=0.0
    )
    return iter(data.train)


def by_hand(folder: Path) -> Iterator[Any]:
    import tensorflow as tf

    files = sorted(folder.glob("*/*.jpg"))
    names = sorted({file.parent.name for file in files})
    labels = [names.index(file.parent.name) for file in files]

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        content = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(content),
            bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE)) / 255.0
        return tf.image.random_flip_left_right(image), label

    dataset = tf.data.Dataset.from_tensor_slices(([str(file) for file in files], labels))
    dataset = dataset.shuffle(len(files)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE))


def main() -> None:
    side, folder, batches = sys.argv[1:]
    iterator = {"mpt": ours, "by hand": by_hand}[side](Path(folder))
    for _ in range(WARMUP):  # what is ready before it is asked for says nothing of the speed
        next(iterator)
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(int(batches)):
        next(iterator)
    took = {"batch": time.perf_counter() - start, "cpu": time.process_time() - processor}
    print(json.dumps({f"{name}_ms": 1e3 * t / int(batches) for name, t in took.items()}))


if __name__ == "__main__":
    main()
