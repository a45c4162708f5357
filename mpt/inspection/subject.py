"""What is inspected: a prepared run with its traced step and its FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import keras
import tensorflow as tf

from mpt import precision, tuning
from mpt.inspection.flops import Flops, flops_by_layer
from mpt.inspection.recording import LayerCall, Recording, record_training
from mpt.preparation import Prepared, prepare
from mpt.schema import TrainConfig


@dataclass
class Subject:
    """All that the table, the totals and the findings are made from.

    Attributes:
        step: the traced training step; None where it cannot be traced.
        refusal: why it cannot.
        fused: paths of the BatchNormalization layers that train by the fused kernel.
        notes: what a reader of the numbers should know.
    """

    prepared: Prepared
    step: Recording | None
    refusal: str | None
    flops: Flops
    fused: tuple[str, ...]
    notes: list[str]

    @property
    def model(self) -> keras.Model:
        return self.prepared.model

    @property
    def config(self) -> TrainConfig:
        return self.prepared.config

    def calls_of(self, path: str) -> list[LayerCall]:
        """The calls of a layer in one training step."""
        return [] if self.step is None else [c for c in self.step.calls if c.path == path]


def examine(config: TrainConfig, allow: tuple[str, ...]) -> Subject:
    """Prepare the run that `config` describes, and trace its step.

    A distributed run is looked at as one replica that takes the whole batch.

    Raises:
        ConfigurationError: the configuration or the input cannot be used.
    """
    notes = []
    if config.device.strategy != "none":
        notes.append(
            f"Activation bytes are those of the whole batch of {config.batch_size}; under "
            f"device.strategy={config.device.strategy} each device holds its share of them."
        )
        config = replace(config, device=replace(config.device, strategy="none"))
    prepared = prepare(config, allow)
    return trace(prepared, next(iter(prepared.data.train)), notes)


def trace(prepared: Prepared, batch: Any, notes: Sequence[str] = ()) -> Subject:
    """Trace a training step, and the forward pass by itself.

    Args:
        batch: of the training data; only its shapes and dtypes count.
        notes: that come before those of the tracing.
    """
    fused, more = _fuse(prepared)
    step, refusal = None, None
    try:
        step = record_training(prepared.model, batch)
    except Exception as error:  # whatever the user's own train_step raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        refusal = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
    inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    with precision.unfused(prepared.model):
        flops = flops_by_layer(prepared.model, inputs)
    if flops.looped:
        more.append(
            f"The FLOPs of {', '.join(flops.looped)} count one pass of their loop, as in the "
            "report of a run."
        )
    return Subject(prepared, step, refusal, flops, fused, [*notes, *more])


def _fuse(prepared: Prepared) -> tuple[tuple[str, ...], list[str]]:
    """Swap in the fused kernels where the run would, and say where that is not settled yet."""
    config = prepared.config
    choice = tuning.choose_jit(
        config.trainer.jit_compile,
        total_steps=prepared.total_steps,
        replicas=1,
        deterministic=config.device.deterministic,
    )
    if not config.precision.fused_batch_norm or (choice is not None and choice.enabled):
        return (), []
    fused = tuple(precision.fuse(prepared.model))
    if fused and choice is None:
        return fused, [
            "BatchNormalization trains by the fused kernel unless the run finds XLA to be faster "
            "(trainer.jit_compile=auto)."
        ]
    return fused, []


def own_variables(model: keras.Model) -> dict[int, list[keras.Variable]]:
    """Per layer (by its id), the weights that are its own; a shared one counts at its first."""
    seen: set[int] = set()
    own: dict[int, list[keras.Variable]] = {}
    weights = {id(weight) for weight in model.weights}
    for _, layer in precision.walk(model):
        mine = [*layer._trainable_variables, *layer._non_trainable_variables]
        own[id(layer)] = [v for v in mine if id(v) in weights and id(v) not in seen]
        seen.update(id(v) for v in own[id(layer)])
    return own


def new_outputs(call: LayerCall) -> list[tf.Tensor]:
    """The tensors that come out of a call and that it made itself, each once."""
    given = {tensor.name for tensor in call.inputs}
    found = {tensor.name: tensor for tensor in call.outputs if tensor.name not in given}
    return list(found.values())


def tensor_key(tensor: tf.Tensor) -> str:
    """What tells a traced tensor from every other of the step."""
    return f"{id(tensor.graph)}/{tensor.name}"


def size_of(tensor: tf.Tensor) -> int | None:
    """Elements of a tensor; None where its shape is not known."""
    shape = tensor.shape
    return prod(shape.as_list()) if shape.is_fully_defined() else None


def items(variable: Any) -> int:
    """Elements of a variable."""
    return prod(variable.shape)
