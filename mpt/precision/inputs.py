"""What a model casts its inputs to before anything else."""

from __future__ import annotations

from typing import Any

import keras

from mpt.precision.layers import graph_of, is_container, is_functional, keeps_inputs
from mpt.schema import HALF


def first_cast(model: keras.Model) -> str | None:
    """The half-precision dtype that everything casts a floating input of `model` to; else None.

    An input that was cast there already gives the same results. That is not said of a model with
    several inputs, or one whose steps or loss may look at the inputs by another way.
    """
    base = keras.Model
    own = (type(model).train_step, type(model).test_step, type(model).compute_loss)
    if own != (base.train_step, base.test_step, base.compute_loss):
        return None
    if is_functional(model):
        dtypes = _of_readers(graph_of(model))
    else:
        dtypes = {_of_layer(model)}
    (dtype,) = dtypes if len(dtypes) == 1 else (None,)
    return dtype if dtype in HALF else None


def _of_readers(graph: keras.Model) -> set[str | None]:
    """What those that read the only input of a graph of layers cast it to."""
    if len(graph.inputs) != 1:
        return {None}
    inputs = {id(tensor) for tensor in graph.inputs}
    if inputs & {id(tensor) for tensor in graph.outputs}:
        return {None}
    return {
        _of_layer(node.operation)
        for nodes in graph._nodes_by_depth.values()
        for node in nodes
        if inputs & {id(tensor) for tensor in node.arguments.keras_tensors}
    }


def _of_layer(reader: Any) -> str | None:
    """What a layer casts its floating inputs to; None where it does not, or is no layer."""
    if not isinstance(reader, keras.layers.Layer) or is_container(reader):
        return None
    if not reader.autocast or keeps_inputs(reader):
        return None
    return reader.compute_dtype
