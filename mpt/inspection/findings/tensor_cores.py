"""Sizes that tensor cores cannot use well.

In float16 and bfloat16 all three sizes of a product should be multiples of 8; else the library
pads, or takes a slower kernel (NVIDIA, "Matrix Multiplication Background User's Guide", section
"Requirements to use tensor cores"). Large ones do best at multiples of 64, which is why a
vocabulary of 50257 is padded to 50304.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras

from mpt import precision
from mpt.inspection.findings.finding import Finding
from mpt.inspection.subject import Subject
from mpt.schema import HALF

MULTIPLE = 8
LARGE, LARGE_MULTIPLE = 512, 64
# A smaller share of the model's FLOPs is not worth a change: squeeze-and-excitation blocks, say.
LEAST_SHARE = 1e-3

_L = keras.layers
_ATTENTION = (_L.MultiHeadAttention, _L.GroupQueryAttention)
_RECURRENT = (_L.LSTM, _L.GRU, _L.SimpleRNN)
_CONVOLUTIONS = (
    *(_L.Conv1D, _L.Conv2D, _L.Conv3D),
    *(_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose),
    *(_L.SeparableConv1D, _L.SeparableConv2D),
    *(_L.ConvLSTM1D, _L.ConvLSTM2D, _L.ConvLSTM3D),
)


def padded(size: int) -> int:
    """The next size that tensor cores use well."""
    multiple = LARGE_MULTIPLE if size >= LARGE else MULTIPLE
    return -(-size // multiple) * multiple


def tensor_core_dimensions(subject: Subject) -> Iterator[Finding]:
    """Sizes that the user chose for layers in half precision and that are no multiple of 8."""
    within: list[str] = []  # layers that answer for those inside them
    for path, layer in precision.walk(subject.model):
        if any(path.startswith(f"{outer}/") for outer in within):
            continue
        if isinstance(layer, (*_ATTENTION, *_RECURRENT)):
            within.append(path)
        if layer.compute_dtype not in HALF or not layer.built or not _matters(subject, path, layer):
            continue
        groups = getattr(layer, "groups", 1)
        for name, size in _sizes(layer):
            if size > 1 and size % MULTIPLE:
                each = f" in {groups} groups, {size} each," if groups > 1 else ""
                yield Finding(
                    "tensor_core_dimension",
                    path,
                    f"{name} {size * groups}{each} is no multiple of {MULTIPLE}"
                    f"{' a group' if groups > 1 else ''}, and tensor cores in "
                    f"{layer.compute_dtype} need that.",
                    f"make it {padded(size) * groups}",
                )


def _matters(subject: Subject, path: str, layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.Embedding) or not subject.flops.total:
        return True
    own = sum(
        subject.flops.of(each) or 0.0
        for each, _ in precision.walk(subject.model)
        if each == path or each.startswith(f"{path}/")
    )
    return own >= LEAST_SHARE * subject.flops.total


def _sizes(layer: keras.layers.Layer) -> list[tuple[str, int]]:
    """What of the layer's sizes the user chose: a name and the size (of one group), each."""
    if isinstance(layer, _ATTENTION):
        return _head_sizes(layer)
    if isinstance(layer, (_L.Dense, *_RECURRENT)):
        return [("units", layer.units)]
    if isinstance(layer, _CONVOLUTIONS):
        return [("filters", layer.filters // getattr(layer, "groups", 1))]
    if isinstance(layer, _L.EinsumDense):
        return _einsum_sizes(layer)
    if isinstance(layer, _L.Embedding):
        # A lookup is no product; but what the table is multiplied with, at the model's other end,
        # has the vocabulary's size too.
        vocabulary = [("vocabulary", layer.input_dim)] if layer.input_dim >= LARGE else []
        return [*vocabulary, ("output_dim", layer.output_dim)]
    if not type(layer).__module__.startswith("keras."):
        return [
            (f"last size of {weight.name}", int(weight.shape[-1]))
            for weight in layer._trainable_variables
            if len(weight.shape) > 1
        ]
    return []


def _head_sizes(layer: keras.layers.Layer) -> list[tuple[str, int]]:
    if isinstance(layer, _L.GroupQueryAttention):
        return [("head_dim", layer.head_dim)]
    sizes = [("key_dim", layer.key_dim)]
    if layer.value_dim != layer.key_dim:
        sizes.append(("value_dim", layer.value_dim))
    return sizes


def _einsum_sizes(layer: keras.layers.EinsumDense) -> list[tuple[str, int]]:
    """The kernel's sizes that are in the output and not in the input: "abc,cd->abd" has d."""
    operands, _, output = layer.equation.partition("->")
    inputs, _, kernel = operands.partition(",")
    return [
        (f"size {letter} of {layer.equation}", int(size))
        for letter, size in zip(kernel, layer.kernel.shape, strict=True)
        if letter in output and letter not in inputs
    ]
