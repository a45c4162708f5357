"""Parts of a model that cannot be looked into, and what is therefore not known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from mpt import precision
from mpt.inspection.recording import LayerCall
from mpt.inspection.subject import Subject

_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})

OWN_WEIGHTS = "parameters"
INNER_DTYPES = "dtypes inside"


@dataclass
class Opaque:
    """One opaque part.

    Attributes:
        path: of the layer, or of the model.
        what: what it is.
        missing: what is not measured because of it.
        hides: paths of the layers that it keeps out of sight.
    """

    path: str
    what: str
    missing: list[str]
    hides: list[str] = field(default_factory=list)


def opaque_parts(subject: Subject) -> list[Opaque]:
    """Every part of the model that cannot be walked or traced."""
    found = [
        *_model(subject),
        *_by_class(subject),
        *_untracked(subject),
        *_foreign_weights(subject),
        *_compiled(subject),
        *_python(subject),
    ]
    culprits = {part.path for part in found}
    flops = subject.flops
    if flops.culprit is not None and flops.culprit not in culprits:
        found.append(Opaque(flops.culprit, f"{flops.reason}, which it needs", ["forward FLOPs"]))
    elif flops.total is None and flops.culprit is None and flops.reason and not _callless(subject):
        found.append(
            Opaque(subject.model.name, f"XLA cannot lower it: {flops.reason}", ["forward FLOPs"])
        )
    return found


def _callless(subject: Subject) -> bool:
    return type(subject.model).call is keras.Model.call


def _model(subject: Subject) -> Iterable[Opaque]:
    if subject.step is None:
        yield Opaque(
            subject.model.name,
            f"its training step cannot be traced: {subject.refusal}",
            ["output dtypes", "output shapes", "activation bytes", "findings on its operations"],
        )
    if _callless(subject):
        yield Opaque(
            subject.model.name,
            "it has a train_step and no call",
            ["forward FLOPs", "which layers make its outputs"],
        )


def _by_class(subject: Subject) -> Iterable[Opaque]:
    for path, layer in precision.walk(subject.model):
        if isinstance(layer, keras.layers.Lambda):
            yield Opaque(path, "a Lambda: a function, not layers", [INNER_DTYPES])
        elif type(layer).__name__ == "TFSMLayer":
            yield Opaque(
                path, "a SavedModel, whose operations and dtypes are fixed", [INNER_DTYPES]
            )


def _untracked(subject: Subject) -> Iterable[Opaque]:
    """Layers that are called and that Keras does not keep track of."""
    seen: set[str] = set()
    for call in subject.step.calls if subject.step is not None else ():
        if call.layer is not None and not call.known and call.path not in seen:
            seen.add(call.path)
            yield Opaque(
                call.path,
                "a layer that its model does not keep track of: no policy and no optimizer "
                "reaches it",
                [OWN_WEIGHTS],
            )


def _foreign_weights(subject: Subject) -> Iterable[Opaque]:
    """Variables that are read inside a layer, and that Keras does not know: of a tf.Module, say."""
    if subject.step is None:
        return
    model = subject.model
    variables = [
        *model.variables,
        *model.metrics_variables,
        *subject.prepared.optimizer.variables,
        *(v for call in subject.step.calls if call.layer is not None for v in call.layer.variables),
    ]
    known = {id(variable._value.handle) for variable in variables}
    sizes: dict[str, dict[int, int]] = {}
    for operation, call in subject.step.owned:
        if operation.type not in _READS:
            continue
        handle = _source(operation.inputs[0])
        if handle is None or id(handle) in known:
            continue
        shape = operation.outputs[0].shape
        count = shape.num_elements() if operation.type == "ReadVariableOp" else 0
        sizes.setdefault(call.path, {})[id(handle)] = count or 0
    for path, counts in sizes.items():
        yield Opaque(
            path,
            f"reads {len(counts)} variables ({sum(counts.values())} numbers) that Keras does not "
            "know, such as a tf.Module's: they are not trained, and no policy reaches them",
            [OWN_WEIGHTS],
        )


def _source(tensor: tf.Tensor) -> object:
    """What a graph's placeholder of a variable stands for, outside all graphs."""
    found: object = tensor
    while isinstance(found, tf.Tensor) and hasattr(found, "op"):
        outer = {id(inner): external for external, inner in found.graph.captures}
        if id(found) not in outer:
            return None
        found = outer[id(found)]
    return found


def _compiled(subject: Subject) -> Iterable[Opaque]:
    """tf.functions that hide the layers inside them: traced before, they run no Python again."""
    if subject.step is None:
        return
    called = {call.path for call in subject.step.calls}
    hiding: dict[str, LayerCall] = {}
    for operation, call in subject.step.owned:
        if operation.type in _CALLS and type(call.operation).__name__ != "TFSMLayer":
            hiding[call.path] = call
    for path, call in hiding.items():
        layer = call.layer
        inside = [
            each
            for each, child in precision.walk(subject.model)
            if layer is not None and layer is not child and each.startswith(f"{path}/")
        ]
        hidden = [each for each in inside if each not in called]
        if hidden:
            yield Opaque(
                path,
                f"a tf.function that hides {', '.join(hidden)}; their FLOPs are counted with it",
                ["outputs of the layers in it", "activation bytes of the layers in it"],
                hidden,
            )


def _python(subject: Subject) -> Iterable[Opaque]:
    seen: set[str] = set()
    for operation, call in subject.step.owned if subject.step is not None else ():
        if operation.type in _PYTHON and call.path not in seen:
            seen.add(call.path)
            yield Opaque(
                call.path,
                "runs Python code in mid-step (tf.py_function or tf.numpy_function)",
                ["forward FLOPs of the whole model", INNER_DTYPES],
            )
