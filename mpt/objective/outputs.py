"""What a model puts out, and under which activation, as far as it can be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt.errors import ConfigurationError

PASSES_ON = ("Reshape", "Permute", "Flatten", "Identity", "Cast", "Squeeze", "ExpandDims")
"""Layers and operations behind an activation that leave its values as they are."""

PROBED_ROWS = 8
SUM_TOLERANCE = 0.02
"""How far a softmax in bfloat16 may sum to other than 1."""


@dataclass
class Output:
    """One output of a model.

    Attributes:
        name: of the output.
        shape: without the batch.
        dtype: of the prediction.
        declared: its activation where its layer says it: softmax, sigmoid, linear, ...; else None.
        probe: predictions (rows, *shape) on random inputs, made when the activation is not said.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    declared: str | None
    probe: Callable[[], np.ndarray]

    def known_activation(self) -> str | None:
        """The declared activation, or None."""
        return self.declared

    def activation(self) -> str:
        """The declared activation, or one that predictions on random inputs show.

        Raises:
            ConfigurationError: one unit that does not say whether it is a logit.
        """
        if self.declared is not None:
            return self.declared
        if not self.shape or self.shape[-1] == 1:
            raise ConfigurationError(
                f"the output {self.name!r} does not say whether it is a logit or a probability",
                where="loss",
                remedy="name the loss, as loss=binary_crossentropy for probabilities",
            )
        values = self.probe().astype(np.float32)
        sums = values.sum(axis=-1)
        is_softmax = (values >= 0).all() and np.abs(sums - 1).max() < SUM_TOLERANCE
        self.declared = "softmax" if is_softmax else "linear"
        return self.declared


def fits(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> bool:
    """Whether two shapes can be the same; None fits any size."""
    return len(shape) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(shape, other, strict=True)
    )


def inputs_of(model: keras.Model) -> list[tuple[str, tuple[int | None, ...]]] | None:
    """Name and shape (with the batch) of each declared input; None where none is declared."""
    inputs = _symbolic(model, "inputs")
    if inputs is None:
        return None
    return [(tensor.name, tuple(tensor.shape)) for tensor in inputs]


def outputs_of(model: keras.Model, inputs: Any) -> tuple[Any, list[Output]]:
    """The structure of the model's outputs (None for a single one), and each output.

    Args:
        model: a subclass of Model that declares no outputs is called on one random batch.
        inputs: the spec of a batch of inputs.

    Raises:
        ConfigurationError: the model cannot be called on such inputs.
    """
    symbolic = _symbolic(model, "outputs")
    memory: list[Any] = []

    def predictions() -> Any:
        if not memory:
            memory.append(_probe(model, inputs))
        return memory[0]

    def probe(index: int) -> Callable[[], np.ndarray]:
        return lambda: keras.ops.convert_to_numpy(
            keras.ops.cast(keras.tree.flatten(predictions())[index], "float32")
        )

    if symbolic is None:
        structure = predictions()
        tensors = keras.tree.flatten(structure)
        declared: list[str | None] = [None] * len(tensors)
    else:
        structure = getattr(model, "_outputs_struct", None)
        if structure is None or not keras.tree.is_nested(structure):
            structure = symbolic[0] if len(symbolic) == 1 else list(symbolic)
        tensors = keras.tree.flatten(structure)
        declared = [_declared(tensor) for tensor in tensors]
    names = _names(model, structure, len(tensors))
    outputs = [
        Output(
            names[index],
            tuple(tensor.shape)[1:],
            keras.backend.standardize_dtype(tensor.dtype),
            declared[index],
            probe(index),
        )
        for index, tensor in enumerate(tensors)
    ]
    return structure if keras.tree.is_nested(structure) else None, outputs


def _symbolic(model: keras.Model, what: str) -> list[Any] | None:
    """Declared inputs or outputs of a functional or built sequential model."""
    try:
        found = getattr(model, what, None)
    except (AttributeError, ValueError):  # a Sequential that is not built
        return None
    return list(found) if found else None


def _names(model: keras.Model, structure: Any, count: int) -> list[str]:
    if isinstance(structure, dict):
        return sorted(structure)
    names = getattr(model, "output_names", None)
    if names and len(names) == count:
        return list(names)
    return [f"output_{index}" for index in range(count)]


def _declared(tensor: Any) -> str | None:
    """The activation of the operation that made `tensor`, seen through reshapes and models."""
    operation, node_index, index = tensor._keras_history
    if isinstance(operation, keras.Model):
        inner = _symbolic(operation, "outputs")
        return None if inner is None else _declared(inner[index])
    kind = type(operation).__name__
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower()
    if kind in PASSES_ON:
        return _declared(operation._inbound_nodes[node_index].input_tensors[0])
    if kind == "TimeDistributed":
        operation = operation.layer
    function = getattr(operation, "activation", None)
    name = getattr(function, "__name__", None)
    if name is not None and getattr(keras.activations, name, None) is function:
        return name
    # Layers that Keras makes without an activation of their own pass a linear mix on.
    return "linear" if kind in ("Add", "EinsumDense", "Rescaling") else None


def _probe(model: keras.Model, inputs: Any) -> Any:
    random = np.random.default_rng(0)

    def example(spec: tf.TensorSpec) -> tf.Tensor:
        shape = [PROBED_ROWS, *(size or 1 for size in spec.shape[1:])]
        if spec.dtype.is_floating:
            return tf.constant(random.standard_normal(shape), spec.dtype)
        return tf.zeros(shape, spec.dtype)

    try:
        return model(tf.nest.map_structure(example, inputs), training=False)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise ConfigurationError(
            f"model {model.name!r} cannot be called on the data's examples: {error}",
            where="model",
        ) from error
