"""A captured step, run again as often as need be; and what was not finite before it began."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mpt.numerics.capture import Captured
from mpt.numerics.provenance import Step, extent
from mpt.numerics.state import restored
from mpt.numerics.tap import tapped_step
from mpt.precision import computing_in, in_float8, walk
from mpt.variables import components


class Replay:
    """The captured step, from the state before it; made by `replaying`."""

    def __init__(self, model: keras.Model, captured: Captured):
        self.model = model
        self.captured = captured

    def run(self, *, scale: float | None = None, float32: Collection[str] | None = ()) -> Step:
        """Run it layer by layer, without XLA, and with float8's products in bfloat16.

        Args:
            scale: factor of the loss in place of the captured one.
            float32: paths of the layers that compute in float32 in place of what they do; None:
                all of them.
        """
        with ExitStack() as changed:
            # Outside of a graph Keras's gradients of float8 fail.
            if float8 := in_float8(self.model):
                changed.enter_context(computing_in(self.model, "bfloat16", float8))
            if float32 is None or float32:
                changed.enter_context(computing_in(self.model, "float32", float32))
            return tapped_step(
                self.model,
                self.captured.batch,
                scale=self.captured.scale if scale is None else scale,
                reduce=extent,
            )


@contextmanager
def replaying(model: keras.Model, captured: Captured) -> Iterator[Replay]:
    """The model in the captured state; it has its own back afterwards."""
    with restored(model):
        for own, value in zip(components(model.variables), captured.state, strict=True):
            for part in own:
                part.assign(value)
        yield Replay(model, captured)


@dataclass(frozen=True)
class BadArray:
    """An array of the batch, or a weight, that holds NaN or infinity.

    Attributes:
        part: "inputs", "targets" or "sample weights"; "batch" where a train_step takes a structure
            of its own; "weights".
        name: the part, with the key or place where it has several; of a weight, its layer's path
            and its own name.
        rows: those of a batch's array that do, from 0; none where it has no plain rows.
        path: of a weight, its layer's.
        variable: the weight.
    """

    part: str
    name: str
    nan: bool
    rows: tuple[int, ...] = ()
    path: str = ""
    variable: keras.Variable | None = None

    @property
    def holds(self) -> str:
        return "NaN" if self.nan else "Infinity"


def bad_batch(batch: Any) -> list[BadArray]:
    """The arrays of a batch that are not finite."""
    found = []
    for part, name, value in _named(batch):
        dense = tf.is_tensor(value) and isinstance(value, tf.Tensor)
        parts = [value] if dense else tf.nest.flatten(value, expand_composites=True)
        bad = [each for each in map(_bad, parts) if each is not None]
        if bad:
            rows = bad[0][1] if dense else ()
            found.append(BadArray(part, name, any(nan for nan, _ in bad), rows))
    return found


def _bad(value: Any) -> tuple[bool, tuple[int, ...]] | None:
    """Whether an array that is not finite holds NaN, and in which rows; None: it is finite."""
    if not tf.as_dtype(value.dtype).is_floating:
        return None
    array = np.asarray(value)
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return None
    rows = np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1)) if array.ndim else ()
    return bool(np.isnan(array).any()), tuple(int(row) for row in rows)


def _named(batch: Any) -> list[tuple[str, str, Any]]:
    """The batch's tensors, composite ones whole, each with its part and a name."""
    try:
        parts = dict(
            zip(
                ("inputs", "targets", "sample weights"),
                keras.utils.unpack_x_y_sample_weight(batch),
                strict=True,
            )
        )
    except ValueError:  # a structure of a train_step's own
        parts = {"batch": batch}
    named = []
    for part, structure in parts.items():
        if structure is None:
            continue
        for path, leaf in keras.tree.flatten_with_path(structure):
            name = " ".join([part, "/".join(map(str, path))]).strip()
            named.append((part, name, leaf))
    return named


def bad_weights(model: keras.Model, state: list[np.ndarray]) -> list[BadArray]:
    """The weights in `state`, trainable or not, that are not finite, in the model's order."""
    owners: dict[int, str] = {}
    for path, layer in walk(model):
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            owners.setdefault(id(variable), path)
    found = []
    for variable, value in zip(model.variables, state, strict=True):
        bad = _bad(value)
        if bad is not None:
            path = owners.get(id(variable), model.name)
            name = f"{path}/{variable.name}"
            found.append(BadArray("weights", name, bad[0], path=path, variable=variable))
    return found
