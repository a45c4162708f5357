"""What cannot be probed, said before anything is measured."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from mpt.errors import ConfigurationError
from mpt.precision import is_container, walk
from mpt.probing.exponents import Array
from mpt.probing.observation import Observation
from mpt.schema import HALF

NAMED_ROWS = 8


def has_half(model: keras.Model, requested: str, policy: str) -> None:
    """Raise `ConfigurationError` where no layer computes in half precision."""
    layers = [layer for _, layer in walk(model) if not is_container(layer)]
    if any(layer.compute_dtype in HALF for layer in layers):
        return
    resolved = policy if requested == policy else f"{requested}, which is {policy} on this device,"
    raise ConfigurationError(
        f"There is nothing to probe: under {resolved} every layer computes in the reference's own "
        "dtype.",
        where="precision.policy",
        allowed=["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"],
        remedy="name the policy to look at, as precision=mixed_float16",
    )


def no_float8(model: keras.Model) -> None:
    """Raise `ConfigurationError` where a layer is quantized: it cannot run layer by layer."""
    for path, layer in walk(model):
        if layer.quantization_mode is not None:
            raise ConfigurationError(
                f"The layer {path!r} is quantized ({layer.quantization_mode}), whose gradients "
                "TensorFlow cannot take outside of a compiled function.",
                where="precision.policy",
                remedy="probe it under precision=mixed_bfloat16, over which float8 lies",
            )


def finite_batch(batch: Any, number: int) -> None:
    """Raise `ConfigurationError` where a batch holds NaN or an infinity, with its rows.

    Args:
        batch: (x, y) or (x, y, sample_weight).
        number: of the batch, from 1.
    """
    for name, part in zip(("x", "y", "sample_weight"), batch, strict=False):
        arrays = [np.asarray(each) for each in keras.tree.flatten(part)]
        wrong = [each for each in arrays if each.ndim and each.dtype.kind not in "biuSUO"]
        for values in wrong:
            wide = values.astype(np.float64).reshape(len(values), -1)
            rows = np.flatnonzero(~np.isfinite(wide).all(axis=1))
            if len(rows):
                kinds = [
                    word
                    for word, found in (("NaN", np.isnan(wide)), ("infinity", np.isinf(wide)))
                    if found.any()
                ]
                raise ConfigurationError(
                    f"{len(rows)} of {len(values)} rows of batch {number} hold "
                    f"{' and '.join(kinds)} in {name}: {_named(rows)}. No policy can compute with "
                    "that.",
                    where="dataset",
                    remedy="repair or remove these rows (they are counted from 0 in the batch)",
                )


def _named(rows: Array) -> str:
    listed = ", ".join(str(row) for row in rows[:NAMED_ROWS])
    return f"row{'s' if len(rows) > 1 else ''} {listed}{', ...' if len(rows) > NAMED_ROWS else ''}"


def finite_reference(seen: Observation, dtype: str) -> None:
    """Raise `ConfigurationError` where the reference itself is not finite, with its first layer."""
    message = None
    for path, layer in seen.layers.items():
        if not all(_finite(output) for output in layer.outputs):
            begins = all(_finite(each) for each in layer.inputs)
            message = f"the outputs of {path} are not finite" + (
                ", its inputs are" if begins else ""
            )
            break
    else:
        if not np.isfinite(seen.loss):
            message = "the loss is not finite, all layers' outputs are"
        else:
            message = _backward(seen)
    if message is not None:
        raise ConfigurationError(
            f"The reference is not finite either: in {dtype}, {message}. That is not a question "
            "of precision.",
            where="model",
            remedy="repair that first; then probe what half precision does",
        )


def _backward(seen: Observation) -> str | None:
    broken = [
        (layer.arrival if layer.arrival is not None else len(seen.layers), path)
        for path, layer in seen.layers.items()
        if not all(_finite(each) for each in [*layer.activation_gradients, *layer.weight_gradients])
    ]
    return f"the gradients of {min(broken)[1]} are not finite" if broken else None


def _finite(values: Array | None) -> bool:
    return values is None or bool(np.isfinite(values).all())
