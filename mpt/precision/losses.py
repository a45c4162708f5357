"""Losses that layers add, where the layers compute in half precision."""

from typing import Any

import keras

from mpt.schema import HALF


def add_losses_in_float32(model: keras.Model) -> None:
    """Let `add_loss` and activity regularizers in half precision join a float32 loss.

    Keras stacks all losses to sum them, and TensorFlow refuses to stack a half with a float:
    TypeError at the first step (`Trainer.compute_loss`, Keras 3.15). They are cast before they
    are summed, which also keeps a long vector of them from overflowing.
    """
    if "_aggregate_additional_loss" in vars(model):
        return
    aggregate = model._aggregate_additional_loss

    def aggregate_in_float32(loss: Any) -> Any:
        if keras.backend.standardize_dtype(loss.dtype) in HALF:
            loss = keras.ops.cast(loss, "float32")
        return aggregate(loss)

    model._aggregate_additional_loss = aggregate_in_float32
