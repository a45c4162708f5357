"""recipe=needs_scaling: float16 fails at it without loss scaling, and matches float32 with it."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from mpt.config import recipes_dir

RECIPE = "recipe=needs_scaling"
FLOAT32 = ("precision=float32",)
NONE = ("precision=mixed_float16", "loss_scale=none")
DYNAMIC = ("precision=mixed_float16", "loss_scale=dynamic")
FIXED = (
    "precision=mixed_float16",
    "loss_scale=fixed",
    f"loss_scale.initial_scale={2**24}",
)
FLOAT16_MAX, HEADROOM_BITS, CEILING = 65504.0, 2, 2.0**24


@pytest.fixture
def accuracy(mpt: Callable[..., Any]) -> Callable[..., float]:
    """`accuracy(*overrides)` trains one arm and gives the validation accuracy of its last step."""

    def train(*overrides: str) -> float:
        result = mpt("train", RECIPE, "hydra.mode=RUN", "telemetry=minimal", *overrides)
        assert result.code == 0, result.err
        folder = Path(result.out.splitlines()[-1].removeprefix("run: "))
        report = json.loads((folder / "report.json").read_text())
        return report["metrics"]["final"]["validation/accuracy"]

    return train


def test_the_sweep_holds_every_arm_with_three_seeds(
    mpt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = []

    def spawn(job: Any, **_: Any) -> int:
        config = job.config
        scale = config["loss_scale"]
        jobs.append((config["seed"], config["precision"]["policy"], scale["mode"]))
        assert config["loss_weights"] == 2.0**-17
        assert scale["initial_scale"] == (2.0**24 if scale["mode"] == "fixed" else 2.0**15)
        return 0

    monkeypatch.setattr("mpt.commands.sweep_task.spawn", spawn)
    assert mpt("train", RECIPE, "seed=7").code == 0
    arms = [(p, m) for p in ("float32", "mixed_float16") for m in ("none", "dynamic", "fixed")]
    assert jobs == [(7, *arm) for arm in arms]
    recipe = OmegaConf.load(recipes_dir() / "needs_scaling.yaml")
    assert recipe.hydra.sweeper.params.seed == "0,1,2"


def test_gradients_lie_near_2_to_the_minus_26_and_2_to_24_leaves_headroom(
    compose: Callable[..., Any],
) -> None:
    """Plain Keras in float32, on the recipe's model, data and weight."""
    import keras
    import tensorflow as tf

    from mpt.data import digits
    from mpt.models import mlp

    config = compose(RECIPE)
    keras.utils.set_random_seed(0)
    data = digits.build(batch_size=config.batch_size, seed=0)
    model = mlp.build(shape=data.shape, classes=10, hidden=config.model["hidden"])
    x, y = next(iter(data.train))
    with tf.GradientTape() as tape:
        outputs = [x]
        for layer in model.layers:
            outputs.append(layer(outputs[-1]))
        loss = keras.losses.sparse_categorical_crossentropy(y, outputs[-1])
        loss = config.loss_weights * tf.reduce_mean(loss)
    hidden = outputs[2:-1]
    found = tape.gradient(loss, [*hidden, *(v.value for v in model.trainable_variables)])
    activations = np.abs(np.concatenate([g.numpy().ravel() for g in found[: len(hidden)]]))
    activations = activations[activations > 0]
    assert len(hidden) == 4
    assert -29 < np.log2(np.median(activations)) < -26
    assert (activations.astype(np.float16) == 0).mean() > 0.99
    largest = max(np.abs(gradient.numpy()).max() for gradient in found)
    fits = math.floor(math.log2(FLOAT16_MAX / 2**HEADROOM_BITS / largest))
    recommended = min(CEILING, 2.0**fits)
    assert (
        f"mode: fixed, initial_scale: {recommended:.0f}"
        in (recipes_dir() / "needs_scaling.yaml").read_text()
    )


@pytest.mark.slow
def test_the_probe_recommends_the_fixed_scale(mpt: Callable[..., Any]) -> None:
    result = mpt("probe", RECIPE, "precision=mixed_float16", "--json")
    assert result.code == 0, result.err
    recommendation = json.loads(result.out)["recommendation"]
    assert recommendation["needed"] is True
    assert recommendation["initial_scale"] == 2.0**24


@pytest.mark.slow
def test_one_seed_in_short(accuracy: Callable[..., float]) -> None:
    short = ("trainer.epochs=15", "seed=1")
    reference = accuracy(*FLOAT32, *short)
    unscaled, dynamic, fixed = (accuracy(*arm, *short) for arm in (NONE, DYNAMIC, FIXED))
    assert reference > 0.8
    assert unscaled < reference - 0.3
    assert dynamic == pytest.approx(reference, abs=0.03)
    assert fixed == pytest.approx(reference, abs=0.03)


@pytest.mark.slow
def test_scaled_float16_reaches_float32_within_its_seed_noise(
    accuracy: Callable[..., float],
) -> None:
    arms = {
        name: [accuracy(*arm, f"seed={seed}") for seed in range(3)]
        for name, arm in (
            ("float32", FLOAT32),
            ("none", NONE),
            ("dynamic", DYNAMIC),
            ("fixed", FIXED),
        )
    }
    means = {name: statistics.mean(values) for name, values in arms.items()}
    # Twice the standard error of the difference between two means of three seeds.
    noise = 2 * statistics.stdev(arms["float32"]) * math.sqrt(2 / 3)
    assert noise < 0.03
    assert means["float32"] > 0.92
    assert max(arms["none"]) < 0.75
    for name in ("dynamic", "fixed"):
        assert abs(means[name] - means["float32"]) <= noise, arms


@pytest.mark.slow
def test_without_the_weight_float16_needs_no_scaling(accuracy: Callable[..., float]) -> None:
    assert accuracy(*NONE, "seed=0", "loss_weights=null") > 0.92
