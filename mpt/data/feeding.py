"""Batches on their way to a GPU: smaller where nothing is lost by it, and there before their step.

On a CPU there is nothing to be gained, and nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

    from mpt.data.examples import Data

CASTS_AT_ONCE = 2


def fed(data: Data, *, device: str | None, first_cast: str | None, ahead: int) -> Data:
    """`data` whose batches, for training and for validation, lie in the memory of `device`.

    Inputs that are known to be small numbers (`Data.bounded`) travel in the dtype that the model
    casts them to anyway. Others, which may overflow in it, are cast by the model: so it is the
    model's layer that a diagnosis names, and not the data. Labels and weights are never cast, nor
    are inputs that are not float32.

    Args:
        device: a GPU's name, as TensorFlow has it; None leaves the data as they are.
        first_cast: what the model casts its only input to before anything else, in half precision.
        ahead: batches that wait in the device's memory beside the one that is trained on; 0 leaves
            them in the host's, from which each step fetches its own.
    """
    if device is None:
        return data
    cast = first_cast if data.bounded else None

    def feed(dataset: tf.data.Dataset) -> tf.data.Dataset:
        if cast is not None:
            dataset = dataset.map(
                _casting(cast), num_parallel_calls=CASTS_AT_ONCE, deterministic=True
            )
        return _prefetched(dataset, device, ahead) if ahead else dataset

    jump = data.jump
    train = feed(data.train)
    return replace(
        data,
        train=train,
        element_spec=train.element_spec,
        validation=None if data.validation is None else feed(data.validation),
        jump=None if jump is None else lambda *place: feed(jump(*place)),
    )


def _casting(dtype: str) -> Callable[..., Any]:
    """A function of a batch that gives its x, where it is float32, in `dtype`."""
    import tensorflow as tf

    def cast(x: tf.Tensor, *others: Any) -> tuple[Any, ...]:
        return (tf.cast(x, dtype) if x.dtype == tf.float32 else x, *others)

    return cast


def _prefetched(dataset: tf.data.Dataset, device: str, ahead: int) -> tf.data.Dataset:
    import tensorflow as tf

    return dataset.apply(tf.data.experimental.prefetch_to_device(device, ahead))
