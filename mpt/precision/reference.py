"""The same model and variables, computing in another dtype for a while."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import keras

from mpt.precision.layers import (
    graph_of,
    has_float_policy,
    is_functional,
    join_policy,
    keeps_inputs,
    refreeze,
    set_input_dtype,
    uncast,
    walk,
    wider,
)


@contextmanager
def computing_in(
    model: keras.Model, dtype: str, paths: Collection[str] | None = None
) -> Iterator[None]:
    """Have every layer of a floating policy compute in `dtype`; variables are not touched.

    What was traced before keeps its dtypes; a call of the model from here on has the new ones.

    Args:
        model: built.
        dtype: "float16", "bfloat16", "float32" or "float64".
        paths: of the only layers that are to, as `walk` has them; what is inside them stays as it
            is unless it is named too. None: all.
    """
    changed = [
        layer
        for path, layer in walk(model)
        if has_float_policy(layer) and (paths is None or path in paths)
    ]
    before = [layer._dtype_policy for layer in changed]
    inputs = [
        (symbolic, symbolic.dtype)
        for _, layer in walk(model)[1:]
        if is_functional(layer)
        for symbolic in graph_of(layer)._inputs
        if keras.backend.is_float_dtype(symbolic.dtype)
    ]
    try:
        for symbolic, own in inputs:
            set_input_dtype(symbolic, wider(own, dtype))  # nested models cast to it
        for layer in changed:
            policy = keras.DTypePolicy(dtype)
            policy._variable_dtype = layer.variable_dtype
            policy._name = _name(layer.variable_dtype, dtype)
            layer._dtype_policy = uncast(policy) if keeps_inputs(layer) else policy
        _refreeze(changed)
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer._dtype_policy = policy
        for symbolic, own in inputs:
            set_input_dtype(symbolic, own)
        _refreeze(changed)


def _name(variable_dtype: str, compute_dtype: str) -> str:
    try:
        return join_policy(variable_dtype, compute_dtype)
    except ValueError:  # float16 variables that are computed with in float32, say
        return f"{variable_dtype}_computed_in_{compute_dtype}"


def _refreeze(layers: list[keras.layers.Layer]) -> None:
    """Make anew the constants that Normalization layers cast to their compute dtype."""
    for layer in layers:
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            refreeze(layer)
