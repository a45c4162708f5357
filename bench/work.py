"""The work that both sides do: the same models on the same synthetic data."""

from dataclasses import dataclass

WARMUP = 16  # steps left out on both sides; a multiple of 16


@dataclass(frozen=True)
class Work:
    """One case of the benchmark."""

    overrides: tuple[str, ...]
    shape: tuple[int, ...]
    batch: int
    steps: int


WORKS = {
    "cnn": Work(("model=cnn",), (28, 28, 1), 128, 320),
    "mlp": Work(("model=mlp", "model.hidden=[2048,2048,2048]"), (784,), 256, 16),
    "resnet20": Work(("model=resnet", "model.depth=20"), (32, 32, 3), 128, 16),
    "mlp of 32": Work(("model=mlp", "model.hidden=[2048,2048,2048]"), (784,), 32, 96),
    "resnet20 of 32": Work(("model=resnet", "model.depth=20"), (32, 32, 3), 32, 96),
}


def build(work: str):
    """The Keras model of `work`, by mpt's own builder, under the policy in force."""
    from mpt.models import cnn, mlp, resnet

    shape = WORKS[work].shape
    if work == "cnn":
        return cnn.build(shape=shape, classes=10)
    if work == "mlp":
        return mlp.build(shape=shape, classes=10, hidden=[2048, 2048, 2048])
    return resnet.build(shape=shape, classes=10, depth=20)


def tensors(work: str):
    """Float32 inputs, int32 labels, and the batch size; eight batches in all."""
    import numpy as np

    case = WORKS[work]
    rng = np.random.default_rng(0)
    examples = 8 * case.batch
    x = rng.normal(size=(examples, *case.shape)).astype("float32")
    y = rng.integers(0, 10, examples).astype("int32")
    return x, y, case.batch
