"""The steps of a probe: each batch in the reference, then under the policy at every scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mpt import device as devices
from mpt import precision
from mpt.preparation import Prepared
from mpt.probing import checks
from mpt.probing.measures import Layer, add_backward, add_forward
from mpt.probing.observation import Observation, in_reference, observe
from mpt.probing.recommendation import SCALES, SMALLER_SCALES, ScaleRow, scale_row


@dataclass(frozen=True)
class Measured:
    """Attributes:
    layers: in the order of their calls' ends.
    scales: the totals by scale, ascending.
    uncalled: paths of layers with weights that the step did not call as layers.
    """

    layers: list[Layer]
    scales: list[ScaleRow]
    uncalled: list[str]


def measure(
    prepared: Prepared,
    batches: Sequence[Any],
    reference: str,
    own_scale: float,
    tell: Callable[[str], None],
) -> Measured:
    """Every layer at every scale, over all batches.

    Args:
        prepared: with its noise off.
        reference: dtype of the reference.
        own_scale: the run's, which is looked at besides the powers of two.
        tell: is told what is being done.

    Raises:
        ConfigurationError: the reference is not finite.
    """
    model = prepared.model
    layers: dict[str, Layer] = {}
    uncalled: list[str] = []
    scales = sorted({*SCALES, own_scale})
    for number, batch in enumerate(batches, start=1):
        tell(f"batch {number} of {len(batches)}: in {reference}")
        true = _in_reference(prepared, batch, reference)
        checks.finite_reference(true, reference)
        uncalled = true.uncalled
        with _as_in_the_run(prepared):
            for place, scale in enumerate(scales, start=1):
                tell(
                    f"batch {number} of {len(batches)}: under {prepared.choice.policy}, loss scale "
                    f"{place} of {len(scales)}"
                )
                seen = observe(model, batch, scale=scale)
                if scale == scales[0]:
                    add_forward(layers, seen, true)
                add_backward(layers, seen, true, scale)
    rows = [scale_row(layers.values(), scale) for scale in scales]
    if all(layer.outputs.finite for layer in layers.values()):
        smaller = iter(SMALLER_SCALES)
        while not any(row.has_headroom for row in rows) and (scale := next(smaller, 0.0)):
            tell(f"loss scale {scale:g}")
            _add_scale(prepared, batches, reference, layers, scale)
            rows.insert(0, scale_row(layers.values(), scale))
    return Measured(list(layers.values()), sorted(rows, key=lambda row: row.scale), uncalled)


def _add_scale(
    prepared: Prepared,
    batches: Sequence[Any],
    reference: str,
    layers: dict[str, Layer],
    scale: float,
) -> None:
    for batch in batches:
        true = _in_reference(prepared, batch, reference)
        with _as_in_the_run(prepared):
            seen = observe(prepared.model, batch, scale=scale)
        add_backward(layers, seen, true, scale)


def _in_reference(prepared: Prepared, batch: Any, dtype: str) -> Observation:
    devices.set_tf32(False)
    try:
        with in_reference(prepared.model, dtype):
            return observe(prepared.model, batch, scale=1.0)
    finally:
        devices.set_tf32(prepared.choice.tf32)


@contextmanager
def _as_in_the_run(prepared: Prepared) -> Iterator[None]:
    """With the fused kernel for BatchNormalization, unless the run is sure to go without."""
    config = prepared.config
    if config.precision.fused_batch_norm and config.trainer.jit_compile is not True:
        precision.fuse(prepared.model)
    try:
        yield
    finally:
        precision.unfuse(prepared.model)
