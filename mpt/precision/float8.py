"""Products in float8, over mixed_bfloat16, in the layers where Keras has them. Experimental.

Inputs and kernel are rounded to E4M3, the gradient of the output to E5M2, each over a scale that
follows the largest sizes of former steps: Micikevicius et al., "FP8 Formats for Deep Learning",
2022 (arXiv:2209.05433), as in NVIDIA's Transformer Engine. Keras rounds to float8 and back, and
multiplies in bfloat16; XLA makes it one float8 product on a GPU that has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import keras

from mpt.precision.layers import is_container, policy_name, walk
from mpt.precision.trace import Trace
from mpt.schema import FLOAT8, FLOAT8_BASE


def convert(
    model: keras.Model, wanted: Collection[keras.layers.Layer], traced: Trace
) -> tuple[list[keras.layers.Layer], list[keras.layers.Layer]]:
    """Have the layers among `wanted` that can compute products in float8 do so.

    They are Dense and EinsumDense themselves, built, under mixed_bfloat16, that one pass calls
    once: the new scales come as gradients, which two calls would add up. A layer that was
    converted before is passed over.

    Args:
        traced: a forward pass of `model`.

    Returns:
        The layers that were converted, and those that are not called exactly once.
    """
    once = _called_once(traced)
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    fitting = [layer for layer in wanted if type(layer) in kinds]
    converted = []
    for layer in fitting:
        fits = layer in once and layer.built and policy_name(layer) == FLOAT8_BASE
        if fits and layer.quantization_mode is None:
            layer.quantize(FLOAT8)
            converted.append(layer)
    if converted:
        _keep_when_saved(model)
    return converted, [layer for layer in fitting if layer not in once]


def in_float8(model: keras.Model) -> list[str]:
    """Paths of the layers whose products are in float8."""
    return [path for path, layer in walk(model) if layer.quantization_mode == FLOAT8]


def _called_once(traced: Trace) -> set[keras.layers.Layer]:
    """Layers that one pass calls once; a loop may call what is in it any number of times."""
    calls = Counter(id(call.layer) for call in traced.calls)
    return {c.layer for c in traced.calls if calls[id(c.layer)] == 1 and not c.in_branch}


def _keep_when_saved(model: keras.Model) -> None:
    """Have the layers around converted ones write down their policies.

    A `.keras` file has one policy for a layer and all inside it. Where that is a map by path, as
    MultiHeadAttention hands on, the layers inside take their own from it.
    """
    for _, layer in walk(model):
        if isinstance(layer, keras.Model) or is_container(layer):
            continue
        inside = {
            each.path: each.dtype_policy
            for each in layer._flatten_layers(include_self=False)
            if each.quantization_mode == FLOAT8
        }
        if inside:
            layer._dtype_policy = keras.dtype_policies.DTypePolicyMap(
                default_policy=keras.DTypePolicy(policy_name(layer)), policy_map=inside
            )
