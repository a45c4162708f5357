"""Forward FLOPs, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from mpt.inspection.recording import innermost, recorded, traced
from mpt.telemetry.compute import UNCOUNTABLE
from mpt.telemetry.hlo import products

HALF = ("f16", "bf16")
_LOOP = re.compile(r"/while(_\d+)?/")
_NODE = re.compile(r"\{\{node ([^}]*)\}\}")


@dataclass
class Flops:
    """FLOPs of the forward pass on one example, in inference.

    Attributes:
        by_path: per path and per HLO dtype of the operands; those outside of any layer are the
            model's own. None where they could not be counted.
        looped: paths of layers whose FLOPs stand in a loop, where one pass is counted.
        reason: why they could not be counted.
        culprit: path of the layer that XLA could not lower, where it says so.
    """

    by_path: dict[str, Counter[str]] | None
    looped: list[str] = field(default_factory=list)
    reason: str | None = None
    culprit: str | None = None

    @property
    def total(self) -> float | None:
        """FLOPs of the whole model: what `mpt.telemetry.compute.forward_pass` counts."""
        if self.by_path is None:
            return None
        return sum((sum(counts.values()) for counts in self.by_path.values()), 0.0)

    @property
    def half(self) -> float | None:
        """Those whose operands have 16 bits."""
        if self.by_path is None:
            return None
        return sum(
            (counts[dtype] for counts in self.by_path.values() for dtype in HALF if counts[dtype]),
            0.0,
        )

    def of(self, path: str) -> float | None:
        """The FLOPs of one layer without those of the layers inside it."""
        if self.by_path is None:
            return None
        return sum(self.by_path.get(path, Counter()).values(), 0.0)


def flops_by_layer(model: keras.Model, inputs: Any) -> Flops:
    """Count the products and convolutions of the model's HLO, by the layer that makes them.

    Args:
        model: built, without fused kernels, which XLA does not take.
        inputs: a batch of its inputs, nested tensors; only shapes and dtypes count.
    """
    if type(model).call is keras.Model.call:
        return Flops(None, reason="the model has no call")
    flat = [
        tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in tf.nest.flatten(inputs)
    ]
    arguments = {"training": False} if model._call_has_training_arg else {}

    def forward(*tensors: tf.Tensor) -> Any:
        return model(tf.nest.pack_sequence_as(inputs, tensors), **arguments)

    with recorded(model) as calls:
        try:
            hlo = traced(forward, flat, calls, jit=True)
            found = products(hlo)
        except UNCOUNTABLE as error:
            reason, node = _reason(error)
            index = innermost(node)
            culprit = calls[index].path if index is not None and index < len(calls) else None
            return Flops(None, reason=reason, culprit=culprit)
    model._clear_losses()
    by_path: dict[str, Counter[str]] = {}
    looped: dict[str, None] = {}
    for product in found:
        index = innermost(product.operation)
        path = model.name if index is None else calls[index].path
        by_path.setdefault(path, Counter())[product.dtype] += product.flops  # type: ignore[assignment]
        if (index is not None and calls[index].in_loop) or _LOOP.search(product.operation):
            looped[path] = None
    return Flops(by_path, list(looped))


def _reason(error: Exception) -> tuple[str, str]:
    """What XLA or Keras said, in one line, and the operation that it named."""
    text = str(error)
    nodes = _NODE.findall(text)
    unsupported = re.search(r"No registered '(\w+)' OpKernel for XLA", text)
    if unsupported:
        return f"XLA has no {unsupported.group(1)}", nodes[0] if nodes else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200], nodes[0] if nodes else ""
