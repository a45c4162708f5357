"""The peer: bare Keras `fit`, as a script of one's own would do it. Prints one JSON line.

python bench/keras_fit.py WORK POLICY STEPS_PER_EXECUTION STEPS
"""

import json
import sys
import time

import keras
import tensorflow as tf

from bench.work import WARMUP, build, tensors


def main() -> None:
    work, policy, steps_per_execution, steps = sys.argv[1:]
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    model = build(work)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=int(steps_per_execution),
        jit_compile=False,
    )
    x, y, batch = tensors(work)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True)
    data = data.cache().repeat().prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = data.with_options(options)
    iterator_steps = int(steps)
    model.fit(data, steps_per_epoch=WARMUP, epochs=1, verbose=0)
    start = time.perf_counter()
    history = model.fit(data, steps_per_epoch=iterator_steps, epochs=1, verbose=0)
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "step_ms": 1e3 * seconds / iterator_steps,
                "loss": float(history.history["loss"][-1]),
            }
        )
    )


if __name__ == "__main__":
    main()
