"""Estimated memory of a training step under several policies, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mpt import precision
from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject, items, new_outputs, own_variables, size_of, tensor_key
from mpt.schema import HALF

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")


@dataclass
class Estimate:
    """Bytes under one policy, with head and overrides as configured.

    Attributes:
        chosen: whether it is the policy of the run.
        activations: outputs of the layers in one training step that are kept for its backward
            pass; None: not measured.
        weights: in the variables' dtypes.
        gradients: of the trainable weights.
        optimizer: slots, accumulators and counters.
        weight_copies: the weights that layers cast to their compute dtype, and keep for the
            backward pass.
        half_flops_share: FLOPs in 16 bits over all, 0 to 1; None: not measured.
    """

    policy: str
    chosen: bool
    activations: int | None
    weights: int
    gradients: int
    optimizer: int
    weight_copies: int
    half_flops_share: float | None

    @property
    def state(self) -> int:
        """All but the activations."""
        return self.weights + self.gradients + self.optimizer + self.weight_copies

    @property
    def total(self) -> int | None:
        return None if self.activations is None else self.activations + self.state

    def as_json(self) -> dict[str, Any]:
        """The estimate under the keys of `--json`."""
        return {**vars(self), "state": self.state, "total": self.total}


def estimates(subject: Subject) -> list[Estimate]:
    """float32, mixed_float16 and mixed_bfloat16, and the run's policy where it is another."""
    chosen = subject.prepared.choice.policy
    policies = [*POLICIES, *([] if chosen in POLICIES else [chosen])]
    return [_estimate(subject, policy, policy == chosen) for policy in policies]


def _estimate(subject: Subject, policy: str, chosen: bool) -> Estimate:
    model = subject.model
    names = {id(layer): name for layer, name in precision.policies_under(model, policy)}
    policies = {each: keras.dtype_policies.get(name) for each, name in names.items()}
    weights = gradients = copies = 0
    trainable = {id(v) for v in model.trainable_variables}
    own = own_variables(model)
    for _, layer in precision.walk(model):
        now = policies.get(id(layer), layer.dtype_policy)
        for variable in own[id(layer)]:
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if dtype == layer.variable_dtype and id(layer) in policies:
                dtype = now.variable_dtype
            weights += items(variable) * _bytes(dtype)
            gradients += items(variable) * _bytes(dtype) * (id(variable) in trainable)
            if layer.autocast and now.compute_dtype in HALF and _bytes(dtype) > 2:
                copies += items(variable) * 2 * _is_float(dtype)
    return Estimate(
        policy=policy,
        chosen=chosen,
        activations=_activations(subject, policies),
        weights=weights,
        gradients=gradients,
        optimizer=_optimizer(subject, chosen),
        weight_copies=copies,
        half_flops_share=_share(subject, policies, chosen),
    )


def _bytes(dtype: str) -> int:
    return tf.as_dtype(dtype).size


def _is_float(dtype: str) -> bool:
    return tf.as_dtype(dtype).is_floating


def _optimizer(subject: Subject, chosen: bool) -> int:
    """The optimizer's variables; under a policy that is not the run's, slots are in float32."""
    total = 0
    for variable in subject.prepared.optimizer.variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        total += items(variable) * (4 if _is_float(dtype) and not chosen else _bytes(dtype))
    return total


def _activations(subject: Subject, policies: dict[int, keras.DTypePolicy]) -> int | None:
    """Outputs of the step's layers, each in the dtype that its layer would give it.

    A tensor in its layer's compute dtype follows the layer; another stays as it is. What an
    operation of a functional model gives follows from what it gets. What is inside a block that is
    computed again counts where that block's is the most: one at a time is held.
    """
    if subject.step is None:
        return None
    dtypes: dict[str, str] = {}
    inside = _inside_of_blocks(subject)
    again: dict[str, int] = {}
    total = 0
    for call in subject.step.ended_first():
        for tensor in new_outputs(call):
            key = tensor_key(tensor)
            if key in dtypes:
                continue
            dtypes[key] = dtype = _dtype(call, tensor, policies, dtypes)
            size = size_of(tensor)
            if size is None:
                return None
            if (block := inside.get(key)) is not None:
                again[block] = again.get(block, 0) + size * _bytes(dtype)
            else:
                total += size * _bytes(dtype)
    return total + max(again.values(), default=0)


def _inside_of_blocks(subject: Subject) -> dict[str, str]:
    """Keys of the tensors that a block makes and that nothing outside of it gets: its name."""
    if subject.step is None or not subject.prepared.blocks:
        return {}
    of_path = {
        path: block.name
        for _, blocks in subject.prepared.blocks
        for block in blocks
        for path in block.paths
    }

    def block_of(call: LayerCall) -> str | None:
        parts = call.path.split("/")
        above = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        return next((of_path[path] for path in above if path in of_path), None)

    made: dict[str, str] = {}
    for call in subject.step.ended_first():
        block = block_of(call)
        if block is not None:
            made.update((tensor_key(tensor), block) for tensor in new_outputs(call))
    for call in subject.step.calls:
        own = block_of(call)
        for tensor in call.inputs if call.parent is not None else ():
            if made.get(tensor_key(tensor), own) != own:
                del made[tensor_key(tensor)]
    for tensor in subject.step.calls[0].outputs:
        made.pop(tensor_key(tensor), None)
    return made


def _dtype(
    call: LayerCall,
    tensor: tf.Tensor,
    policies: dict[int, keras.DTypePolicy],
    dtypes: dict[str, str],
) -> str:
    present = tensor.dtype.name
    if not tensor.dtype.is_floating:
        return present
    layer = call.layer
    if layer is not None:
        policy = policies.get(id(layer))
        follows = policy is not None and present == layer.compute_dtype
        return policy.compute_dtype if policy is not None and follows else present
    inputs = [t for t in call.inputs if t.dtype.is_floating]
    if not inputs or keras.backend.result_type(*(t.dtype.name for t in inputs)) != present:
        return present
    return keras.backend.result_type(*(dtypes.get(tensor_key(t), t.dtype.name) for t in inputs))


def _share(subject: Subject, policies: dict[int, keras.DTypePolicy], chosen: bool) -> float | None:
    """As counted for the run's policy; for another one, by the compute dtypes of the layers."""
    flops = subject.flops
    if not flops.by_path or not flops.total:
        return None
    if chosen:
        return (flops.half or 0.0) / flops.total
    half = sum(
        flops.of(path) or 0.0
        for path, layer in precision.walk(subject.model)
        if id(layer) in policies and policies[id(layer)].compute_dtype in HALF
    )
    return half / flops.total
