"""The peer: bare Keras `fit`, as a script of one's own would do it. Prints one JSON line.

    python -m bench.keras_fit JSON

with work, policy, folder, warmup, steps, and of the setting: group (steps a call), jit_compile,
autotune. `losses: true` runs `steps` steps and gives the loss of each; else their time. The head is
in float32, as Keras's guide to mixed precision has it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bench.first_step import FirstStep
from bench.work import DATA, WEIGHTS, WORKS, build


class Clock(keras.callbacks.Callback):
    """When each call of the device was done; `fit` has read its loss by then."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[int, float] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.at[batch + 1] = time.perf_counter()


def main() -> None:
    asked = json.loads(sys.argv[1])
    policy, folder = asked["policy"], Path(asked["folder"])
    tf.config.experimental.enable_tensor_float_32_execution(policy == "tf32")
    model = compiled(asked, folder)
    data = batches(WORKS[asked["work"]].batch, folder, asked["autotune"])
    if asked.get("losses"):
        history = model.fit(data, steps_per_epoch=1, epochs=asked["steps"], verbose=0)
        print(json.dumps({"losses": history.history["loss"]}))
        return
    if asked.get("first"):
        model.fit(data, steps_per_epoch=1000, epochs=1, verbose=0, callbacks=[FirstStep()])
        return
    clock = Clock()
    steps = asked["warmup"] + asked["steps"]
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[clock])
    seconds = clock.at[steps] - clock.at[asked["warmup"]]
    found = {"step_ms": 1e3 * seconds / asked["steps"]}
    if tf.config.list_logical_devices("GPU"):
        found["peak_mib"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    print(json.dumps(found))


def compiled(asked: dict[str, Any], folder: Path) -> keras.Model:
    """The work's model with its weights at the start, compiled."""
    policy = asked["policy"]
    keras.mixed_precision.set_global_policy("float32" if policy == "tf32" else policy)
    case = WORKS[asked["work"]]
    model = build(asked["work"])
    model.layers[-1].dtype_policy = "float32"
    if not asked.get("first"):
        model.load_weights(folder / WEIGHTS)
    model.compile(
        optimizer=keras.optimizers.Adam(case.rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=case.tokens),
        metrics=["accuracy"],
        steps_per_execution=asked["group"],
        jit_compile=asked["jit_compile"],
    )
    return model


def batches(batch: int, folder: Path, autotune: bool) -> tf.data.Dataset:
    """Endless batches, always in the same order."""
    with np.load(folder / DATA) as arrays:
        data = tf.data.Dataset.from_tensor_slices((arrays["x"], arrays["y"]))
    data = data.batch(batch, drop_remainder=True).cache().repeat()
    if autotune:
        return data.prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.prefetch(2).with_options(options)


if __name__ == "__main__":
    main()
