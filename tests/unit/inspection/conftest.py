"""Models to inspect, prepared without the command line: a step is traced, nothing is trained."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mpt import precision
from mpt.device import Device
from mpt.inspection.flops import Flops
from mpt.inspection.subject import Subject, trace
from mpt.loss_scale import LossScaleOptimizer
from mpt.policy_choice import Choice
from mpt.preparation import Prepared
from mpt.schema import (
    DeviceConfig,
    LossScaleConfig,
    PrecisionConfig,
    TelemetryConfig,
    TrainConfig,
    TrainerConfig,
)

CPU = Device("cpu", "test", 1, None, None, True, True, None)


def size_of_predictions(_labels, predictions):
    """A loss that fits any labels."""
    return keras.ops.mean(keras.ops.square(predictions))


@pytest.fixture(scope="session")
def inspected() -> Callable[..., Subject]:
    """`inspected(builder, x, policy)` is the subject of an inspection of what `builder` makes.

    Nothing changes a subject, so that the tests of a file share those of the same arguments.
    """
    known: dict[str, Subject] = {}

    def call(builder: Callable[[], keras.Model], x: Any, *args: Any, **kwargs: Any) -> Subject:
        key = f"{id(builder)} {builder} {args} {kwargs}"
        if key not in known:
            known[key] = examine(builder, x, *args, **kwargs)
        return known[key]

    def examine(
        builder: Callable[[], keras.Model],
        x: Any,
        policy: str = "mixed_float16",
        *,
        y: Any = None,
        loss: Any = size_of_predictions,
        traceable: bool = True,
        flops: bool = True,
        metrics: Any = None,
        loss_scale: str | None = None,
        jit_compile: Any = "auto",
        **settings: Any,
    ) -> Subject:
        keras.utils.set_random_seed(0)
        config = TrainConfig(
            run_dir="",
            model={},
            dataset={},
            optimizer={},
            batch_size=len(keras.tree.flatten(x)[0]),
            precision=PrecisionConfig(policy=policy, **settings),
            loss_scale=LossScaleConfig(),
            trainer=TrainerConfig(epochs=1, jit_compile=jit_compile),
            device=DeviceConfig(),
            telemetry=TelemetryConfig(),
        )
        model = precision.build(
            builder,
            policy=policy,
            head=config.precision.head,
            overrides=config.precision.overrides,
        )
        float16 = precision.computes_float16(model)
        mode = loss_scale or ("dynamic" if float16 else "none")
        optimizer = LossScaleOptimizer(keras.optimizers.Adam(), mode=mode)
        if model.compiled:
            model.optimizer = optimizer
        else:
            model.compile(optimizer, loss=loss, metrics=metrics, auto_scale_loss=False)
        x = keras.tree.map_structure(tf.convert_to_tensor, x)
        batch = (x, tf.convert_to_tensor(y if y is not None else np.zeros(4, "float32")))
        precision.verify(model, batch)
        optimizer.build(model.trainable_variables)
        prepared = Prepared(
            config=config,
            device=CPU,
            strategy=tf.distribute.get_strategy(),
            choice=Choice(policy, policy, False, "a test", ()),
            data=None,
            model=model,
            optimizer=optimizer,
            compute_dtype=keras.DTypePolicy(policy).compute_dtype,
            table=precision.table(model),
            total_steps=10,
            batch_size=4,
            best=None,
            callbacks=[],
            warnings=[],
        )
        with pytest.MonkeyPatch.context() as patch:
            if not flops:  # for tests that look at the training step alone: a third of the time
                unwanted = Flops(None, reason="not wanted")
                patch.setattr("mpt.inspection.subject.flops_by_layer", lambda *_: unwanted)
            subject = trace(prepared, batch)
        assert (subject.step is not None) == traceable, subject.refusal
        builders.append(builder)  # so that no other one takes its id
        return subject

    builders: list[Any] = []
    return call
