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
    sizes = [variable.shape for variable in build(work).trainable_variables]

    def on_replica() -> list[tf.Tensor]:
        own = [tf.random.normal(shape) for shape in sizes]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)

    @tf.function
    def reduce(count: tf.Tensor) -> tf.Tensor:
        total = tf.zeros(())
        for _ in tf.range(count):
            first = strategy.experimental_local_results(strategy.run(on_replica)[0])[0]
            total += tf.reduce_sum(first)
        return total

    @tf.function
    def make(count: tf.Tensor) -> tf.Tensor:
        total = tf.zeros(())
        for _ in tf.range(count):
            made = strategy.run(lambda: [tf.random.normal(shape) for shape in sizes])
            total += tf.reduce_sum(strategy.experimental_local_results(made[0])[0])
        return total

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
