"""Blocks of a model whose inside is computed again in the backward pass instead of being kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (arXiv:1604.06174): of a block
only what goes in is held until its gradient is taken, for one more forward pass of it. The results
are the same: what a pass draws or learns (dropout's seeds, BatchNormalization's statistics) is put
back for the second one, which Keras's own RematScope and tf.recompute_grad alone do not do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope

from mpt.errors import ConfigurationError
from mpt.precision import graph_of, is_functional, walk

WHERE = "trainer.rematerialize"


@dataclass
class Block:
    """Operations of one functional model that are computed again together.

    Attributes:
        name: what the pattern found in the layers' paths, behind `prefix`.
        prefix: of the paths of that model's layers.
        nodes: of the model's graph, each after those that it needs.
    """

    name: str
    prefix: str
    nodes: list[Any]

    @property
    def paths(self) -> list[str]:
        """Of the operations, as `mpt.precision.walk` has those of layers."""
        return [f"{self.prefix}{node.operation.name}" for node in self.nodes]

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers, those inside of layers included."""
        operations = [node.operation for node in self.nodes]
        layers = [each for each in operations if isinstance(each, keras.layers.Layer)]
        inside = {id(one): one for each in layers for one in each._flatten_layers()}
        return list(inside.values())


Blocks = list[tuple[keras.Model, list[Block]]]


def blocks(model: keras.Model, patterns: Sequence[str]) -> Blocks:
    """The blocks that `patterns` name, by the functional model that they are in.

    Layers in whose paths a pattern finds the same text are one block, with all that lies between
    them: "block\\d+_" makes one each of block1_* and block2_*.

    Args:
        model: built; functional, or with functional models in it.
        patterns: regular expressions.

    Raises:
        ConfigurationError: a pattern finds nothing, blocks overlap or need each other, or a layer
            of one adds a loss.
    """
    found: Blocks = []
    covered: set[int] = set()  # models inside of a block
    unused = dict(enumerate(patterns))
    for path, layer in walk(model):
        if not is_functional(layer) or id(layer) in covered:
            continue
        prefix = "" if layer is model else f"{path}/"
        graph = graph_of(layer)
        named = _named(graph, prefix, patterns, unused)
        own = [_closed(graph, name, prefix, members) for name, members in named.items()]
        _check_apart(own)
        if own:
            _schedule(graph, own)
            covered.update(id(inside) for block in own for inside in block.layers)
            found.append((graph, own))
    for index, pattern in unused.items():
        raise ConfigurationError(
            f"{pattern!r} is found in no layer's path",
            where=f"{WHERE}[{index}]",
            remedy="paths are those of `mpt inspect`; blocks are made of the layers of functional "
            "models",
        )
    for _, own in found:
        for block in own:
            _check_losses(block)
    return found


def _named(
    graph: keras.Model, prefix: str, patterns: Sequence[str], unused: dict[int, str]
) -> dict[str, list[Any]]:
    """Nodes by the text that a pattern finds in their path; takes from `unused` those that do."""
    named: dict[str, list[Any]] = {}
    for node in _ordered(graph):
        for index, pattern in enumerate(patterns):
            match = re.search(pattern, f"{prefix}{node.operation.name}")
            if match is not None and match.group():
                unused.pop(index, None)
                named.setdefault(prefix + match.group(), []).append(node)
                break
    return named


def _ordered(graph: keras.Model) -> list[Any]:
    """The nodes that compute, each after those that it needs."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    return [node for node in nodes if node.operation and not node.is_input]


def _closed(graph: keras.Model, name: str, prefix: str, members: list[Any]) -> Block:
    """The block of `members` and of all that lies on a way from one of them to another."""
    ordered = _ordered(graph)
    makers = {id(x): node for node in ordered for x in node.outputs}
    wanted = {id(node) for node in members}
    after, before = set(wanted), set(wanted)
    for node in ordered:
        if any(id(makers.get(id(x))) in after for x in node.input_tensors):
            after.add(id(node))
    for node in reversed(ordered):
        if id(node) in before:
            before.update(id(makers[id(x)]) for x in node.input_tensors if id(x) in makers)
    return Block(name, prefix, [node for node in ordered if id(node) in after & before])


def _check_apart(own: Sequence[Block]) -> None:
    held: dict[int, str] = {}
    for block in own:
        for node in block.nodes:
            other = held.setdefault(id(node), block.name)
            if other != block.name:
                raise ConfigurationError(
                    f"The blocks {other!r} and {block.name!r} overlap in {node.operation.name!r}",
                    where=WHERE,
                    remedy="give a pattern that tells apart what comes before and after it",
                )


def _schedule(graph: keras.Model, own: Sequence[Block]) -> list[Any]:
    """Nodes and blocks in an order in which each comes after what it needs.

    Raises:
        ConfigurationError: there is none.
    """
    of_node = {id(node): block for block in own for node in block.nodes}
    ordered = _ordered(graph)
    makers = {id(x): node for node in ordered for x in node.outputs}
    pending: dict[int, Any] = {}
    for node in ordered:
        unit = of_node.get(id(node), node)
        pending.setdefault(id(unit), unit)
    done: set[int] = set()
    schedule = []
    while pending:
        ready = [unit for unit in pending.values() if _needs(unit, makers) <= done]
        if not ready:
            names = sorted(unit.name for unit in pending.values() if isinstance(unit, Block))
            raise ConfigurationError(
                f"The blocks {', '.join(names)} need each other's outputs",
                where=WHERE,
                remedy="give a pattern that makes one block of them, or smaller ones",
            )
        for unit in ready:
            done.update(id(node) for node in _nodes(unit))
            del pending[id(unit)]
        schedule += ready
    return schedule


def _nodes(unit: Any) -> list[Any]:
    return unit.nodes if isinstance(unit, Block) else [unit]


def _needs(unit: Any, makers: dict[int, Any]) -> set[int]:
    """Ids of the nodes outside of `unit` that make what goes into it."""
    own = _nodes(unit)
    inside = {id(node) for node in own}
    found = {id(makers[id(x)]) for node in own for x in node.input_tensors if id(x) in makers}
    return found - inside


def _check_losses(block: Block) -> None:
    """Refuse what adds a loss while it is called: its gradient would be lost with what is kept."""
    for layer in block.layers:
        if layer.activity_regularizer is not None or isinstance(
            layer, keras.layers.ActivityRegularization
        ):
            raise _adds_loss(layer, block)


def _adds_loss(layer: keras.layers.Layer, block: Block) -> ConfigurationError:
    return ConfigurationError(
        f"The layer {layer.name!r} in the block {block.name!r} adds a loss of its "
        "activations, which a block that is computed again cannot have",
        where=WHERE,
        remedy="leave it out of the blocks",
    )


def _losses(block: Block) -> dict[keras.layers.Layer, int]:
    """How many losses each layer has added with add_loss by now."""
    return {layer: len(layer._losses) for layer in block.layers}


def _state(block: Block) -> list[tf.Variable]:
    """What a pass of the block changes."""
    state = [v for layer in block.layers for v in layer._non_trainable_variables]
    state += [each.state for layer in block.layers for each in layer._seed_generators]
    # It replaces its kernel by a normalized one.
    state += [
        each.kernel for each in block.layers if isinstance(each, keras.layers.SpectralNormalization)
    ]
    with AutocastScope(None):  # a model's scope would give what is cast, which takes no value
        return [variable.value for variable in state]


def rematerialized(found: Blocks, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`step`, in which the blocks keep nothing of their inside for the backward pass.

    To be called while a graph is traced.
    """

    inside = 0  # replicas are traced in turns, each in a thread of its own

    def run(batch: Any) -> Any:
        nonlocal inside
        if inside == 0:
            for graph, own in found:
                graph.__dict__["_run_through_graph"] = _runner(graph, own)  # past Keras's tracking
        inside += 1
        try:
            return step(batch)
        finally:
            inside -= 1
            if inside == 0:
                for graph, _ in found:
                    del graph.__dict__["_run_through_graph"]

    return run if found else step


def _runner(graph: keras.Model, own: Sequence[Block]) -> Callable[..., Any]:
    """In place of the model's method of that name: nodes in order, blocks by `_run_block`."""
    schedule = _schedule(graph, own)
    plain = graph._run_through_graph
    ends = {id(x) for x in graph.outputs}
    used = {block.name: ends | _used_outside(graph, block) for block in own}

    def run(inputs: Any, operation_fn: Any = lambda op: op, call_fn: Any = None) -> Any:
        if call_fn is not None or not tf.is_tensor(keras.tree.flatten(inputs)[0]):
            return plain(inputs, operation_fn=operation_fn, call_fn=call_fn)
        values = dict(zip(map(id, graph.inputs), keras.tree.flatten(inputs), strict=True))
        for unit in schedule:
            if isinstance(unit, Block):
                _run_block(unit, values, operation_fn, used[unit.name])
            else:
                _run_node(unit, values, operation_fn)
        outputs = [values[id(x)] for x in graph.outputs]
        return keras.tree.pack_sequence_as(graph._outputs_struct, outputs)

    return run


def _used_outside(graph: keras.Model, block: Block) -> set[int]:
    """Ids of the tensors that nodes outside of the block take."""
    inside = {id(node) for node in block.nodes}
    return {id(x) for node in _ordered(graph) if id(node) not in inside for x in node.input_tensors}


def _run_node(node: Any, values: dict[int, Any], operation_fn: Any) -> None:
    arguments, keywords = node.arguments.fill_in(values)
    outputs = operation_fn(node.operation)(*arguments, **keywords)
    values.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))


def _run_block(block: Block, values: dict[int, Any], operation_fn: Any, used: set[int]) -> None:
    """Run a block, of whose inside nothing is kept, and add its outputs that are `used`."""
    made = {id(x) for node in block.nodes for x in node.outputs}
    given = {id(x) for node in block.nodes for x in node.input_tensors} - made
    needed = [key for key in values if key in given and _is_differentiable(values[key])]
    masks = {key: keras.src.backend.get_keras_mask(values[key]) for key in needed}
    outside = {key: values[key] for key in given if key not in needed}
    state = _state(block)
    before = [tf.identity(each) for each in state]
    wanted = [id(x) for node in block.nodes for x in node.outputs if id(x) in used]
    passes = 0

    def forward(*tensors: tf.Tensor) -> list[tf.Tensor]:
        nonlocal passes
        passes += 1
        losses = _losses(block)
        now = [tf.identity(each) for each in state] if passes > 1 else []
        for variable, value in zip(state, before, strict=True) if now else ():
            variable.assign(value)
        inside = dict(outside)
        for key, tensor in zip(needed, tensors, strict=True):
            if masks[key] is not None:
                keras.src.backend.set_keras_mask(tensor, masks[key])
            inside[key] = tensor
        for node in block.nodes:
            _run_node(node, inside, operation_fn)
        for layer, count in _losses(block).items():
            if count > losses[layer]:
                raise _adds_loss(layer, block)
        for variable, value in zip(state, now, strict=True) if now else ():
            variable.assign(value)
        out_masks[:] = [keras.src.backend.get_keras_mask(inside[key]) for key in wanted]
        return [inside[key] for key in wanted]

    out_masks: list[Any] = []
    outputs = tf.recompute_grad(forward)(*(values[key] for key in needed))
    for key, output, mask in zip(wanted, outputs, out_masks, strict=True):
        if mask is not None:
            keras.src.backend.set_keras_mask(output, mask)
        values[key] = output


def _is_differentiable(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating
