"""The policies of a model's layers as a table, and back from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from mpt.errors import ConfigurationError
from mpt.precision.layers import (
    has_float_policy,
    is_container,
    join_policy,
    keep_inputs,
    keeps_inputs,
    keras_class,
    policy_name,
    set_policy,
    walk,
)
from mpt.precision.losses import add_losses_in_float32
from mpt.precision.plan import Plan, known, plan_of, remember
from mpt.schema import HALF


def computes_float16(model: keras.Model) -> bool:
    """Whether any layer computes in float16, so that gradients need a loss scale."""
    return any(
        layer.compute_dtype == "float16" for _, layer in walk(model) if not is_container(layer)
    )


def notes(model: keras.Model) -> list[str]:
    """What a user should know about the policies of a model that `build` made."""
    plan = plan_of(model)
    told = []
    kept = [path for path, layer in walk(model) if plan.asked.get(layer, ("", ""))[1] == "layer"]
    if kept:
        told.append(f"{len(kept)} layers keep the dtype that the model gave them, {kept[0]} first.")
    refused = [path for path, layer in walk(model) if layer in plan.refused]
    if refused:
        told.append(
            f"{len(refused)} layers stay out of float8, {refused[0]} first: its scales need a "
            "layer that is called once a step."
        )
    if plan.head == "policy":
        return told
    narrow = plan.policy.removeprefix("mixed_") in HALF
    for path, layer in walk(model):
        overridden = plan.asked.get(layer, ("", ""))[1] == "override"
        if overridden and layer in plan.heads and layer.compute_dtype in HALF:
            told.append(f"precision.overrides takes {path}, which makes an output, out of float32.")
        if narrow and layer in plan.hidden and layer.compute_dtype in HALF:
            told.append(
                f"{path} makes an output from weights of its own between its layers, in "
                f"{layer.compute_dtype}; put them in a layer to have them in float32."
            )
    return told


def table(model: keras.Model) -> list[dict[str, str]]:
    """Each layer's path, class, variable dtype, compute dtype and their source, parents first.

    The source is global (the policy), override (a rule), head, or layer (the model's own code).
    A subclassed model that hands its inputs on as they come has inputs: uncast too; a layer whose
    products are in float8 has quantization: float8.
    """
    plan = known(model) or Plan(policy_name(model))
    rows = []
    for path, layer in walk(model):
        own = "global" if plan.present(layer) == plan.policy else "layer"
        mode = layer.quantization_mode
        rows.append(
            {
                "path": path,
                "class": keras_class(layer).__name__,
                "variable_dtype": layer.variable_dtype,
                "compute_dtype": layer.compute_dtype,
                "source": plan.asked.get(layer, ("", own))[1],
                **({"inputs": "uncast"} if keeps_inputs(layer) else {}),
                **({"quantization": mode} if mode is not None else {}),
            }
        )
    return rows


def apply_table(model: keras.Model, rows: Sequence[Mapping[str, str]]) -> None:
    """Give the layers of a loaded model the policies that `table` wrote down.

    A `.keras` file keeps the policies of a functional model's layers, and loses those of layers
    inside layers. Layers are found by path, or, where automatic names differ, by their order.

    Raises:
        ConfigurationError: the rows are of another model.
    """
    layers = walk(model)
    by_path = {row["path"]: row for row in rows}
    if [path for path, _ in layers] == list(by_path) or all(p in by_path for p, _ in layers[1:]):
        pairs = [(layer, by_path.get(path, rows[0] if rows else {})) for path, layer in layers]
    else:
        pairs = [(layer, row) for (_, layer), row in zip(layers, rows, strict=False)]
    if len(layers) != len(rows) or any(
        keras_class(layer).__name__ != row["class"] for layer, row in pairs
    ):
        raise ConfigurationError(
            f"The table of policies has {len(rows)} layers, and is not of this model of "
            f"{len(layers)}.",
            where="precision.json",
        )
    plan = remember(model, Plan(join_policy(*_dtypes(rows[0]))))
    for layer, row in pairs:
        if has_float_policy(layer) and layer.quantization_mode is None:
            name = join_policy(*_dtypes(row))
            if policy_name(layer) != name:
                set_policy(layer, name)
            if row.get("inputs") == "uncast":
                keep_inputs(layer)
            plan.original[layer] = name
            plan.asked[layer] = (name, row["source"])
    add_losses_in_float32(model)


def _dtypes(row: Mapping[str, str]) -> tuple[str, str]:
    return row["variable_dtype"], row["compute_dtype"]
