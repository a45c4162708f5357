"""What only a GPU shows: its memory, its tensor cores, and TensorFloat-32."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="there is no GPU"),
]
SHORT = ("device=gpu", "trainer.steps=40", "trainer.warmup_steps=5", "telemetry.peak=false")


def trained(mpt_process, *words):
    done = mpt_process("train", *SHORT, *words)
    assert done.code == 0, done.err
    folder = Path(done.out.splitlines()[-1].removeprefix("run: "))
    return json.loads((folder / "report.json").read_text())


def test_a_run_reports_the_card_and_its_memory(mpt_process):
    report = trained(mpt_process, "precision=mixed_float16")
    assert report["device"]["kind"] == "gpu"
    assert report["device"]["compute_capability"] is not None
    assert report["memory"]["device_peak_bytes"] > 0
    assert report["loss_scale"]["mode"] == "dynamic"


def test_float16_learns_what_float32_does(mpt_process):
    losses = [
        trained(mpt_process, f"precision={policy}", "model=mlp")["metrics"]["final"]["train/loss"]
        for policy in ("float32", "mixed_float16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_float32_uses_no_tensorfloat32_unless_it_is_asked_for():
    from mpt import device

    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 512, 512)).astype("float32")
    exact = a.astype("float64") @ b.astype("float64")
    errors = {}
    for enabled in (False, True):
        device.set_tf32(enabled)
        errors[enabled] = float(np.abs(tf.linalg.matmul(a, b).numpy() - exact).max())
    device.set_tf32(False)
    assert errors[False] < 1e-3
    capability = tf.config.experimental.get_device_details(
        tf.config.list_physical_devices("GPU")[0]
    )["compute_capability"]
    if tuple(capability) >= (8, 0):
        assert errors[True] > 10 * errors[False]
