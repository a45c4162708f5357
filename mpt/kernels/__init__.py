"""Fused kernels for a training step on a CPU, in place of what Keras runs operation by operation.

`fused` swaps functions of Keras while a step is traced, so that every model has them, a user's too.
Whatever a kernel does not serve goes Keras's way, and inference always does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.tensorflow import nn
from keras.src.ops import nn as operations

from mpt.kernels import attention, convolution, cross_entropy, dense, gelu, layer_normalization

__all__ = ["fused"]

KERNELS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "gelu": (nn, "gelu", gelu.instead_of),
    "layer_normalization": (operations, "_layer_normalization", layer_normalization.instead_of),
    "cross_entropy": (nn, "sparse_categorical_crossentropy", cross_entropy.instead_of),
    "dense": (keras.layers.Dense, "call", dense.instead_of),
    "convolution": (nn, "conv", convolution.instead_of),
    "attention": (nn, "dot_product_attention", attention.instead_of),
}
"""By name: where Keras keeps its function, and what makes the kernel's stand-in for it."""


# Replicas trace in threads of their own, which come and go in any order: the first one swaps, the
# last one puts back.
_lock = threading.Lock()
_inside: list[set[str]] = []
_kept: list[tuple[Any, str, Any]] = []


@contextmanager
def fused(used: set[str]) -> Iterator[None]:
    """Inside the block Keras's functions are those of the kernels, in all threads.

    Args:
        used: gets the names of the kernels that served, those of other threads' blocks too.
    """
    with _lock:
        if not _inside:
            _swap()
        _inside.append(used)
    try:
        yield
    finally:
        with _lock:
            del _inside[next(i for i, each in enumerate(_inside) if each is used)]
            if not _inside:
                _put_back()


def _swap() -> None:
    for name, (owner, attribute, instead_of) in KERNELS.items():
        original = getattr(owner, attribute)
        _kept.append((owner, attribute, original))
        setattr(owner, attribute, _watched(name, original, instead_of))


def _put_back() -> None:
    while _kept:
        owner, attribute, original = _kept.pop()
        setattr(owner, attribute, original)


def _watched(
    name: str, original: Callable[..., Any], instead_of: Callable[..., Any]
) -> Callable[..., Any]:
    """The kernel's stand-in for `original`; where it did not fall back on that, it was of use."""
    state = threading.local()

    def fallback(*arguments: Any, **named: Any) -> Any:
        state.fallen_back = True
        return original(*arguments, **named)

    stand_in = instead_of(fallback)

    def call(*arguments: Any, **named: Any) -> Any:
        state.fallen_back = False
        result = stand_in(*arguments, **named)
        if not state.fallen_back:
            for used in tuple(_inside):
                used.add(name)
        return result

    return call
