"""Time to add up one step's gradients over the replicas, and nothing else, ms.

    python -m bench.all_reduce WORK DEVICES      with TF_CONFIG: over its workers

Tensors of the sizes of the work's weights, in one function that reduces them again and again, as
the training step does: all of them in one go. Prints JSON.
"""

import json
import os
import sys
import time

TIMES = 10
ROUNDS = 5


def main(work: str, devices: int) -> None:
    import tensorflow as tf

    from bench.work import build
    from mpt import device
    from mpt.workers import from_environment

    workers = "TF_CONFIG" in os.environ
    device.prepare(
        accelerator="cpu",
        memory_growth=True,
        memory_limit_mb=None,
        logical_cpus=None if workers else devices,
        deterministic=False,
    )
    cluster = from_environment(os.environ) if workers else None
    strategy = device.strategy("multi_worker" if workers else "mirrored", cluster)
    with strategy.scope():
        weights = build(work).trainable_variables

    def on_replica(number: tf.Tensor) -> list[tf.Tensor]:
        # Of another value each time: else it would be done once.
        return [
            tf.convert_to_tensor(weight.value) + tf.cast(number, tf.float32) for weight in weights
        ]

    def reduced(number: tf.Tensor) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, on_replica(number))

    def of_the_first(values: list) -> tf.Tensor:
        """A sum over all of them: what nobody reads is not computed."""
        own = [strategy.experimental_local_results(value)[0] for value in values]
        return tf.add_n([tf.reduce_sum(each) for each in own])

    def repeated(act):
        @tf.function
        def run(count: tf.Tensor) -> tf.Tensor:
            total = tf.zeros(())
            for number in tf.range(count):
                total += of_the_first(strategy.run(act, args=(number,)))
            return total

        return run

    reduce, make = repeated(reduced), repeated(on_replica)

    def ms(function) -> float:
        start = time.perf_counter()
        function(tf.constant(TIMES)).numpy()
        return 1e3 * (time.perf_counter() - start) / TIMES

    for function in (reduce, make):
        ms(function)
    found = [max(0.0, ms(reduce) - ms(make)) for _ in range(ROUNDS)]
    print(json.dumps({"ms": sorted(found)[ROUNDS // 2]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
