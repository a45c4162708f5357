"""Every recipe trains, in a smoke form: smaller models and pictures, a few steps."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mpt.config import recipes_dir

COMMON = (
    *("hydra.mode=RUN", "trainer.epochs=null", "trainer.steps=4", "trainer.eval_every=4"),
    *("trainer.log_every=2", "trainer.warmup_steps=0", "trainer.checkpoint_every=null"),
    *("telemetry.peak=false", "telemetry.histogram_every=0", "device=cpu", "batch_size=4"),
)
RESNET8 = ("model.depth=8", "dataset.size=32")
VIT = ("model.depth=1", "model.heads=2", "model.width=16", "dataset.size=32")
GPT = ("model.depth=1", "model.heads=2", "model.width=16", "dataset.length=16")
WARM = "optimizer.schedule.warmup_steps=1"
RECIPES = sorted(file.stem for file in recipes_dir().glob("*.yaml"))


class Smoke(NamedTuple):
    """A recipe's smoke form: its overrides, and what the report must then say, by dotted key."""

    overrides: tuple[str, ...]
    expected: dict[str, Any]


FORMS = {
    "cifar10_resnet": Smoke(
        (
            *("dataset=synthetic", "dataset.shape=[32,32,3]", "dataset.examples=20"),
            *("model.depth=8", "optimizer.schedule.boundaries=[1,2]"),
        ),
        {"config.optimizer.schedule.factors": [1, 0.1, 0.01]},
    ),
    "fashion_mnist_resnet": Smoke(
        ("dataset.path={idx}", "model.depth=8", WARM),
        {"data.train_examples": 20, "data.validation_examples": 10},
    ),
    "four_policies": Smoke(("precision=tf32",), {"precision.policy": "float32"}),
    "fp32_vs_bf16": Smoke(("precision=mixed_bfloat16",), {"precision.policy": "mixed_bfloat16"}),
    "fp32_vs_fp16": Smoke(("precision=mixed_float16",), {"loss_scale.mode": "dynamic"}),
    "gpt2_small": Smoke(
        (*GPT, "dataset.path={bin}", WARM, "optimizer.gradient_accumulation_steps=2"),
        {"precision.policy": "mixed_bfloat16", "data.validation_examples": 6},
    ),
    "gpt2_tiny_text": Smoke((*GPT, WARM), {"data.name": "text", "config.dataset.vocabulary": None}),
    "imagenet_resnet50": Smoke(
        (*RESNET8, "dataset.path={shards}", WARM),
        {
            "precision.policy": "mixed_float16",
            "loss_scale.mode": "dynamic",
            "config.label_smoothing": 0.1,
            "data.train_examples": 16,
            "data.validation_examples": 6,
        },
    ),
    "max_batch": Smoke(
        ("model.depth=8", "dataset.shape=[32,32,3]", "dataset.examples=20"),
        {"data.validation_examples": 0},
    ),
    "needs_scaling": Smoke(("precision=mixed_float16", "loss_scale=dynamic"), {}),
    "seed_cnn": Smoke((), {"data.name": "digits"}),
    "smoke": Smoke((), {"precision.policy": "mixed_float16", "config.trainer.smoke_checks": True}),
    "unet_shapes": Smoke(
        (
            *("model.width=4", "model.depth=2", "dataset.examples=20", "dataset.size=16"),
            *("precision=mixed_bfloat16", WARM),
        ),
        {
            "data.train_examples": 16,
            "precision.policy": "mixed_bfloat16",
            "config.monitor": "validation/mean_iou",
            "metrics.best.name": "validation/mean_iou",
        },
    ),
    "vit_small": Smoke(
        (*VIT, "dataset.path={shards}", WARM),
        {"precision.policy": "mixed_bfloat16", "config.dataset.mixup": 0.2},
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few examples of each, laid out as the recipes say."""
    folder = tmp_path_factory.mktemp("inputs")
    found = {name: folder / name for name in ("shards", "images", "idx", "bin")}
    for made in found.values():
        made.mkdir()
    lay_out_shards(found["shards"])
    lay_out_images(found["images"])
    lay_out_idx(found["idx"])
    tokens = np.random.default_rng(0).integers(0, 50257, 300).astype(np.uint16)
    tokens.tofile(found["bin"] / "train.bin")
    tokens[:100].tofile(found["bin"] / "val.bin")
    return found


def photo(number: int) -> bytes:
    """A JPEG of its own size, as ImageNet's are."""
    import tensorflow as tf

    shape = (40 + number, 60 - number, 3)
    pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return tf.io.encode_jpeg(pixels).numpy()


def lay_out_shards(folder: Path) -> None:
    """ImageNet's usual conversion: records of an image and a label that counts from 1."""
    import tensorflow as tf

    def record(number: int) -> bytes:
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[photo(number)])),
            "image/class/label": tf.train.Feature(
                int64_list=tf.train.Int64List(value=[1 + 111 * number % 1000])
            ),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    for name, numbers in {
        "train-00000-of-00002": range(8),
        "train-00001-of-00002": range(8, 16),
        "validation-00000-of-00001": range(6),
    }.items():
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in numbers:
                writer.write(record(number))


def lay_out_images(folder: Path) -> None:
    """ImageNet unpacked: a folder for each class, in train and in val."""
    for part, count in {"train": 6, "val": 2}.items():
        for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                (folder / part / name / f"{name}_{number}.JPEG").write_bytes(
                    photo(label * count + number)
                )


def lay_out_idx(folder: Path) -> None:
    """Fashion-MNIST's four files, https://github.com/zalandoresearch/fashion-mnist."""
    random = np.random.default_rng(0)
    for part, rows in {"train": 20, "t10k": 10}.items():
        images = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        for name, array in {"images-idx3": images, "labels-idx1": labels}.items():
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = gzip.compress(head + array.tobytes())
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(content)


@pytest.fixture
def trained(
    mpt: Callable[..., Any], inputs: dict[str, Path], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """`trained(recipe, *overrides)` gives the report of the recipe's smoke form."""

    def train(recipe: str, *overrides: str) -> dict[str, Any]:
        words = [word.format(**inputs) if "{" in word else word for word in overrides]
        result = mpt("train", f"recipe={recipe}", *COMMON, *words, f"run_dir={tmp_path}/run")
        assert result.code == 0, result.err
        return json.loads((tmp_path / "run" / "report.json").read_text())

    return train


def at(report: dict[str, Any], key: str) -> Any:
    found: Any = report
    for part in key.split("."):
        found = found[part]
    return found


# Of the others the composition is tested at each `make test`, and the training by `make test-all`.
QUICK = ("vit_small",)


def test_every_recipe_has_a_smoke_form() -> None:
    assert list(FORMS) == RECIPES


@pytest.mark.parametrize(
    "recipe",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORMS],
)
def test_a_smoke_form_trains(trained: Callable[..., dict[str, Any]], recipe: str) -> None:
    form = FORMS[recipe]
    report = trained(recipe, *form.overrides)
    assert (report["status"], report["training"]["steps"]) == ("completed", 4)
    assert report["config"]["recipe"] == recipe
    assert {key: at(report, key) for key in form.expected} == form.expected
    validated = report["data"]["validation_examples"] > 0
    loss = report["metrics"]["final"]["validation/loss" if validated else "train/loss"]
    assert math.isfinite(loss)
    assert loss > 0


def test_imagenet_in_folders(trained: Callable[..., dict[str, Any]]) -> None:
    report = trained(
        "imagenet_resnet50", *RESNET8, "dataset=image_folder", "dataset.path={images}", WARM
    )
    data = report["data"]
    assert (data["train_examples"], data["validation_examples"]) == (18, 6)
    assert report["config"]["label_smoothing"] == 0.1


@pytest.mark.parametrize(
    ("recipe", "count", "policies"),
    [
        ("four_policies", 4, {"float32", "tf32", "mixed_float16", "mixed_bfloat16"}),
        ("fp32_vs_bf16", 10, {"float32", "mixed_bfloat16"}),
        ("fp32_vs_fp16", 10, {"float32", "mixed_float16"}),
        ("max_batch", 3, {"float32", "mixed_float16", "mixed_bfloat16"}),
    ],
)
def test_what_a_sweep_runs(
    mpt: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    count: int,
    policies: set[str],
) -> None:
    jobs = []

    def spawn(job: Any, **_: Any) -> int:
        jobs.append(job.config)
        return 0

    monkeypatch.setattr("mpt.commands.sweep_task.spawn", spawn)
    monkeypatch.setattr("mpt.commands.sweep_task.settle", lambda job, **_: job)
    mpt("train", f"recipe={recipe}")
    assert len(jobs) == count
    assert {job["precision"]["policy"] for job in jobs} == policies
    batch = "max" if recipe == "max_batch" else 128
    assert {job["batch_size"] for job in jobs} == {batch}
