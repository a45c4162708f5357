"""The layers of a model: in order, with paths; and how one of them changes its policy."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_MIXED = {("float32", "float16"): "mixed_float16", ("float32", "bfloat16"): "mixed_bfloat16"}


def walk(model: keras.Model) -> list[tuple[str, keras.layers.Layer]]:
    """Every layer once, parents first, the model itself at the head; input layers left out.

    A path is the names below the model joined by slashes; the model's own is its name. Keras's
    `layer.path` will not do: it is None where nothing is built, and leaves nested models out.
    """
    found: list[tuple[str, keras.layers.Layer]] = []
    seen: set[int] = set()
    paths: dict[str, int] = {}

    def visit(layer: keras.layers.Layer, path: str, prefix: str) -> None:
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            return
        seen.add(id(layer))
        paths[path] = paths.get(path, 0) + 1
        found.append((path if paths[path] == 1 else f"{path}#{paths[path]}", layer))
        for child in layer._layers:
            visit(child, prefix + child.name, f"{prefix}{child.name}/")

    visit(model, model.name, "")
    return found


def keras_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The layer's class, or Keras's own where the layer trains by a fused kernel."""
    return getattr(layer, "plain_class", type(layer))


def descendants(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer and everything below it."""
    return [
        each for each in layer._flatten_layers() if not isinstance(each, keras.layers.InputLayer)
    ]


def is_functional(model: keras.layers.Layer) -> bool:
    """Whether the model is a graph of layers (functional, or a built Sequential)."""
    return isinstance(model, keras.src.models.Functional) or (
        isinstance(model, keras.Sequential) and model.built and model._functional is not None
    )


def graph_of(model: keras.Model) -> keras.Model:
    """The functional model that computes: of a Sequential, the one that it keeps inside."""
    return model._functional if isinstance(model, keras.Sequential) else model


def is_container(layer: keras.layers.Layer) -> bool:
    """Whether the layer only passes tensors between its layers, and computes nothing itself."""
    return isinstance(layer, keras.src.models.Functional | keras.Sequential)


def has_float_policy(layer: keras.layers.Layer) -> bool:
    """Whether a policy can apply: lookups and hashing compute in integers and strings."""
    return layer.compute_dtype in ("float16", "bfloat16", "float32", "float64")


def set_input_dtype(symbolic: keras.KerasTensor, dtype: str) -> None:
    """Have the functional model whose input `symbolic` is take that input in `dtype`."""
    symbolic._dtype = dtype
    layer = symbolic._keras_history.operation
    if isinstance(layer, keras.layers.InputLayer):  # which a Sequential casts to
        layer._dtype = dtype


def wider(first: str, second: str) -> str:
    """The floating dtype that holds the numbers of both."""
    return keras.backend.result_type(first, second)


def policy_name(layer: keras.layers.Layer) -> str:
    """Keras's name of the policy that the layer has now."""
    if layer.quantization_mode is not None:
        return layer.dtype_policy.name
    return join_policy(layer.variable_dtype, layer.compute_dtype)


def join_policy(variable_dtype: str, compute_dtype: str) -> str:
    """Keras's name of the policy with these dtypes.

    Raises:
        ValueError: Keras has no such policy.
    """
    if variable_dtype == compute_dtype:
        return compute_dtype
    try:
        return _MIXED[variable_dtype, compute_dtype]
    except KeyError:
        raise ValueError(
            f"no policy computes in {compute_dtype} with variables in {variable_dtype}"
        ) from None


def set_policy(layer: keras.layers.Layer, name: str) -> None:
    """Give a layer, built or not, a policy, and bring along what it froze under the old one."""
    before = layer.variable_dtype
    if isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap):
        # The setter would write into a map that other layers share.
        layer._dtype_policy = keras.DTypePolicy(name)
    else:
        layer.dtype_policy = name
    if layer.variable_dtype != before:
        for variable in own_variables(layer):
            if variable._dtype == before:
                _recast(variable, layer.variable_dtype)
    if isinstance(layer, keras.layers.Normalization) and layer.built:
        refreeze(layer)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The layer's variables without those of the layers below it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _recast(variable: keras.Variable, dtype: str) -> None:
    """Change a built variable's dtype in place: the layer and the model hold this very object."""
    value = variable._value
    variable._dtype = dtype
    if value is not None:
        variable._initialize(tf.cast(value, dtype))


def refreeze(layer: keras.layers.Normalization) -> None:
    """Make the constants anew that Normalization cast to the compute dtype when it was built."""
    if layer.input_mean is None:
        layer.finalize_state()
    else:
        # `finalize_state` leaves a mean given by the user alone; this branch of `build` has no
        # variables, so it can run again.
        layer.build(layer._build_input_shape)


def keep_inputs(layer: keras.layers.Layer) -> None:
    """Let the layer hand its inputs on in the dtype they come in, as a functional model does.

    The policy stays an ordinary `DTypePolicy` under its ordinary name, so it saves as one.
    """
    layer._dtype_policy = uncast(keras.DTypePolicy(policy_name(layer)))


def uncast(policy: keras.DTypePolicy) -> keras.DTypePolicy:
    """`policy`, an object of its own, made to leave floating inputs in the dtype they come in."""
    convert = policy.convert_input

    def convert_input(x: Any, autocast: bool, dtype: str) -> Any:
        return convert(x, False, dtype)

    policy.convert_input = convert_input
    return policy


def keeps_inputs(layer: keras.layers.Layer) -> bool:
    """Whether `keep_inputs` was done to the layer."""
    return "convert_input" in vars(layer.dtype_policy)
