"""Nodes in the order in which they are to run: what a batch flows through stays in order, the rest waits for its first reader.

A session that keeps to a model's own order (`_ort.open_training`) then quantizes each filter right before its convolution, and
masks each gradient right behind the product that made it: what was just written is still in a cache, and little is kept.
The runtime's own order, depth first from the last outputs, makes all dx before the first dw, and keeps all activations until then.

The masks of quantizers are wanted backward, but compare values that the forward pass makes: they run right behind those. A value
whose inner products come from elsewhere (inner_products.py) is then needed no longer: a byte is kept in its place.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Iterator

import onnx

from onnx_distill.edit import needed_by
from onnx_distill.lookup import attribute
from onnx_distill.lower.nodes import Constants, with_nodes

COMPARING = frozenset("And Greater GreaterOrEqual Less LessOrEqual Not Or".split())
BYTES = (onnx.TensorProto.BOOL, onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def lower_order(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model with the same nodes, in order."""
    given, flowing = list(training.graph.node), _flowing(training)
    made_by = {name: node for node in given for name in node.output if name}
    placed: set[int] = set()
    nodes: list[onnx.NodeProto] = []
    for node in _with_early_masks(given, flowing, needed_by(training, _results(training))):
        if flowing.intersection(node.output):
            nodes += _with_sources(node, made_by, placed)
    for node in given:  # what no batch flows through, such as the gradient of a mean of parameters
        nodes += _with_sources(node, made_by, placed)
    return with_nodes(training, nodes, Constants())


def _results(model: onnx.ModelProto) -> list[str]:
    """Loss and logits: the outputs that are not flags of gradients added up."""
    return [value.name for value in model.graph.output if value.type.tensor_type.elem_type != onnx.TensorProto.BOOL]


def _with_early_masks(given: list[onnx.NodeProto], flowing: set[str], forward: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes, those that compare forward values right behind the last of these."""
    place: dict[str, int] = {}  # forward value, or what is compared of it -> the node behind which it can be had
    behind: dict[int, list[onnx.NodeProto]] = defaultdict(list)
    for position, node in enumerate(given):
        sources = flowing.intersection(node.input)
        early = _masks(node) and sources and place.keys() >= sources
        at = max(place[name] for name in sources) if early else position
        if early or forward.intersection(node.output):
            place.update((name, at) for name in node.output if name)
        behind[at].append(node)
    for position in range(len(given)):
        yield from behind[position]


def _masks(node: onnx.NodeProto) -> bool:
    """Whether it makes a byte of each value."""
    return node.op_type in COMPARING or (node.op_type == "Cast" and attribute(node, "to") in BYTES)


def _flowing(model: onnx.ModelProto) -> set[str]:
    """Values that depend on a batch: on inputs whose first dimension is free."""
    sizes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    flowing = {name for name, dims in sizes.items() if dims and not dims[0].HasField("dim_value")}
    for node in model.graph.node:
        if flowing.intersection(node.input):
            flowing.update(name for name in node.output if name)
    return flowing


def _with_sources(node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto], placed: set[int]) -> Iterator[onnx.NodeProto]:
    """The nodes that this one needs, in order, and the node itself; without those that are placed already."""
    waiting = [(node, False)]
    while waiting:
        top, ready = waiting.pop()
        if id(top) in placed:
            continue
        if ready:
            placed.add(id(top))
            yield top
            continue
        waiting.append((top, True))
        waiting += [(made_by[name], False) for name in reversed(top.input) if name in made_by]
