"""The work that every side does: the same models, from the same weights, on the same batches.

    python -m bench.work WORK FOLDER

writes what the sides read: data.npz (x, y), start.weights.h5 (Keras's and mpt's weights at the
start) and start.npz (the same ones as layer/variable, for PyTorch).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WARMUP = 16  # steps left out where a work names no number of its own
DATA, WEIGHTS, ARRAYS = "data.npz", "start.weights.h5", "start.npz"
CLASSES = 10
VOCABULARY = 1024


@dataclass(frozen=True)
class Work:
    """One case of the benchmark.

    Attributes:
        overrides: mpt's, of the model.
        shape: of one example.
        batch: examples a step.
        steps: measured ones.
        classes: of the labels; of tokens the vocabulary.
        warmup: steps ahead of those that are measured.
        group: steps a call of the device where a side takes many: 16, or 4 where a step takes so
            long that a call costs nothing beside it.
        batches: distinct ones, which repeat.
        rate: Adam's learning rate.
        tokens: x and y are token ids.
        normalized: the model has BatchNormalization.
        head: mpt's precision.head, by which it computes the last product as Keras's peer does.
    """

    overrides: tuple[str, ...]
    shape: tuple[int, ...]
    batch: int
    steps: int
    classes: int = CLASSES
    warmup: int = WARMUP
    group: int = 16
    batches: int = 16
    rate: float = 1e-3
    tokens: bool = False
    normalized: bool = False
    head: str = "float32"


_MLP = ("model=mlp", "model.hidden=[2048,2048,2048]")
_RESNET20 = ("model=resnet", "model.depth=20")

WORKS = {
    "cnn": Work(("model=cnn",), (28, 28, 1), 128, 640, batches=64),
    "mlp": Work(_MLP, (784,), 256, 32, warmup=4, rate=1e-4),
    "resnet20": Work(_RESNET20, (32, 32, 3), 128, 16, warmup=4, group=4, normalized=True),
    "resnet50": Work(
        ("model=resnet", "model.depth=50"),
        (64, 64, 3),
        32,
        8,
        warmup=4,
        group=4,
        rate=1e-4,
        normalized=True,
    ),
    "transformer": Work(
        ("model=gpt", "model.depth=6", "model.heads=4", "model.width=256"),
        (128,),
        16,
        8,
        classes=VOCABULARY,
        warmup=4,
        group=4,
        rate=3e-4,
        tokens=True,
        head="policy",  # the embedding's, which is not Keras's last layer
    ),
    "vit_tiny": Work(
        ("model=vit", "model.patch=8", "model.depth=12", "model.heads=3", "model.width=192"),
        (64, 64, 3),
        32,
        8,
        warmup=4,
        group=4,
        rate=3e-4,
    ),
    "mlp of 32": Work(_MLP, (784,), 32, 96),
    "resnet20 of 32": Work(_RESNET20, (32, 32, 3), 32, 96, normalized=True),
}
STEP_TIMES = ("cnn", "mlp", "resnet20", "resnet50", "transformer", "vit_tiny")
"""The works whose step is timed against the peers'."""


def build(work: str) -> Any:
    """The Keras model of `work`, by mpt's own builder, under the policy in force."""
    from importlib import import_module

    case = WORKS[work]
    family, settings = arguments(case)
    module = import_module(f"mpt.models.{family}")
    return module.build(shape=case.shape, classes=case.classes, **settings)


def arguments(case: Work) -> tuple[str, dict[str, Any]]:
    """The model's family and its settings, which the overrides say."""
    family, *settings = case.overrides
    pairs = (setting.removeprefix("model.").split("=") for setting in settings)
    return family.removeprefix("model="), {key: _value(text) for key, text in pairs}


def _value(text: str) -> int | list[int]:
    if text.startswith("["):
        return [int(part) for part in text.strip("[]").split(",")]
    return int(text)


def tensors(work: str) -> tuple[Any, Any, int]:
    """Inputs (float32, or int32 tokens), int32 labels, and the batch size; all batches in a row.

    Nothing in them is random alone, so that a model learns, and two that learn can be compared:
    each class has a pattern of its own below the noise, each token a likely next one.
    """
    import numpy as np

    case = WORKS[work]
    rng = np.random.default_rng(0)
    examples = case.batches * case.batch
    if case.tokens:
        return (*_tokens(rng, examples, case.shape[0], case.classes), case.batch)
    y = rng.integers(0, case.classes, examples).astype("int32")
    x = rng.normal(size=(examples, *case.shape)).astype("float32")
    patterns = rng.normal(size=(case.classes, *case.shape)).astype("float32")
    if len(case.shape) == 3:  # coarse ones, which convolutions find
        coarse = rng.normal(size=(case.classes, 4, 4, case.shape[2])).astype("float32")
        side = case.shape[0] // 4
        patterns = np.kron(coarse, np.ones((1, side, side, 1), "float32"))
    return x + 0.1 * patterns[y], y, case.batch


def _tokens(rng: Any, rows: int, length: int, vocabulary: int) -> tuple[Any, Any]:
    """Half of the tokens follow from the one before, half are drawn, the rarer the larger."""
    import numpy as np

    follows = rng.permutation(vocabulary)
    drawn = (vocabulary ** rng.random((rows, length + 1))).astype("int64") - 1
    known = rng.random((rows, length + 1)) < 0.5
    for place in range(1, length + 1):
        drawn[:, place] = np.where(known[:, place], follows[drawn[:, place - 1]], drawn[:, place])
    return drawn[:, :-1].astype("int32"), drawn[:, 1:].astype("int32")


def write(work: str, folder: Path) -> None:
    """Write data and starting weights of `work` into `folder`."""
    import keras
    import numpy as np

    x, y, _ = tensors(work)
    np.savez(folder / DATA, x=x, y=y)
    keras.utils.set_random_seed(0)
    model = build(work)
    model.save_weights(folder / WEIGHTS)
    by_layer = {"/".join(weight.path.split("/")[-2:]): weight for weight in model.weights}
    np.savez(folder / ARRAYS, **{name: weight.numpy() for name, weight in by_layer.items()})


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
