"""The steps of a probe: which kernels they run, and which loss scales they try."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import precision
from mpt.loss_scale import LossScaleOptimizer
from mpt.precision.fused import FusedBatchNormalization
from mpt.probing import measuring
from mpt.probing.measuring import measure

SCALES = (1.0, 2.0**4, 2.0**15)
ROWS, CLASSES = 8, 3


def build():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="head")(x), name="small")


def batch_of(seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, 4, 4, 2)).astype("float32")
    return tf.constant(x), tf.constant(random.integers(0, CLASSES, ROWS))


@pytest.fixture(scope="module")
def prepared():
    """As much of a prepared run as is measured, with a loss that is far too large."""
    keras.utils.set_random_seed(0)
    model = precision.build(build, policy="mixed_float16")
    optimizer = LossScaleOptimizer(keras.optimizers.SGD())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, loss_weights=2.0**18, auto_scale_loss=False)
    precision.verify(model, batch_of())
    model._symbolic_build(data_batch=batch_of())
    optimizer.build(model.trainable_variables)
    keras.config.set_dtype_policy("float32")
    config = SimpleNamespace(
        precision=SimpleNamespace(fused_batch_norm=True),
        trainer=SimpleNamespace(jit_compile="auto"),
    )
    choice = SimpleNamespace(policy="mixed_float16", tf32=True)
    return SimpleNamespace(model=model, optimizer=optimizer, config=config, choice=choice)


@pytest.fixture
def kernels(monkeypatch):
    """(dtype of the convolution, class of the BatchNormalization, scale) of every step."""
    seen = []
    monkeypatch.setattr(measuring, "SCALES", SCALES)
    original = measuring.observe

    def observe(model, batch, *, scale):
        layer = model.get_layer("norm")
        seen.append((model.get_layer("conv").compute_dtype, type(layer), scale))
        return original(model, batch, scale=scale)

    monkeypatch.setattr(measuring, "observe", observe)
    return seen


def test_the_reference_comes_first_and_the_policy_has_the_run_s_kernels(prepared, kernels):
    told = []
    batches = [batch_of(0), batch_of(1)]
    found = measure(prepared, batches, "float32", 2.0**15, told.append)
    plain, fused = keras.layers.BatchNormalization, FusedBatchNormalization
    one = [("float32", plain, 1.0), *(("float16", fused, scale) for scale in SCALES)]
    assert kernels[: 2 * len(one)] == one * 2
    assert 2.0**15 in found.layers[0].scales
    assert type(prepared.model.get_layer("norm")) is plain
    assert told[0] == "batch 1 of 2: in float32"
    assert [layer.path for layer in found.layers] == ["conv", "norm", "pool", "head"]
    # Two batches of 8, 2 by 2 places, 4 channels.
    assert found.layers[0].scales[1.0].activations.losses.elements == 2 * 8 * 2 * 2 * 4


def test_scales_below_one_are_tried_until_one_fits(prepared, kernels):
    found = measure(prepared, [batch_of()], "float32", 2.0**15, lambda text: None)
    rows = {row.scale: row for row in found.scales}
    assert list(rows) == sorted(rows)
    smallest = min(rows)
    assert smallest < 1
    assert [scale for scale in rows if rows[scale].has_headroom] == [smallest]
    assert kernels[-2:] == [
        ("float32", keras.layers.BatchNormalization, 1.0),
        ("float16", FusedBatchNormalization, smallest),
    ]


def test_where_xla_compiles_the_step_no_kernel_is_fused(prepared, kernels, monkeypatch):
    monkeypatch.setattr(prepared.config.trainer, "jit_compile", True)
    monkeypatch.setattr(measuring, "SCALES", (2.0**-10,))
    measure(prepared, [batch_of()], "float32", 2.0**-10, lambda text: None)
    assert kernels[1:] == [("float16", keras.layers.BatchNormalization, 2.0**-10)]


def test_tensorfloat_32_is_off_in_the_reference_only(prepared, monkeypatch):
    monkeypatch.setattr(measuring, "SCALES", (2.0**-10,))
    switched = []
    monkeypatch.setattr(measuring.devices, "set_tf32", switched.append)
    measure(prepared, [batch_of()], "float32", 2.0**-10, lambda text: None)
    assert switched == [False, True]
