"""A chain of nodes that scale and shift channels goes into the weights in front of it or behind it, or becomes one Mul and one Add.

Into a layer (linear.py), also one at a distance (across.py). What lies in between must be read by nobody else and be no graph
output. A layer behind the chain takes in nothing that would spoil its training (MODERATE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
import onnx

from onnx_distill.normalize.across import across
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.linear import Folded, Linear, linear, scaled_before, scaled_behind
from onnx_distill.normalize.scaling import Chain, Scaling, chain

# A weight that takes in 1 / 255 reads raw pixels from then on: it is 255 times smaller and its gradient 255 times larger, so a
# step of SGD that suited it would be 65,000 times too long. A layer may take in what changes that by no more than this.
MODERATE = (1 / 64, 16)
Steps = List[Tuple[onnx.NodeProto, List[onnx.NodeProto]]]  # nodes, each the reader of the one before, and what replaces each


@dataclass(frozen=True)
class Way:
    """What lies between a chain and a layer: the nodes to cross, in graph order, and the scaling at the layer's side of them."""

    layer: Linear
    scaling: Scaling
    crossed: Steps


def fold(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    """What takes the place of a node where a chain starts: nothing where that went into a layer, itself where what follows did."""
    found = chain(node, graph)
    if found is None or _is_within_a_chain(found, graph):
        return None
    ends = [
        part for part in (chain(start, graph) for start in found.nodes[1:]) if part is not None and not part.scaling.shifts
    ]
    if _into_layer_in_front(found, graph) or any(_into_layer_behind(part, graph) for part in (found, *ends)):
        return [node] if graph.holds(node) else []
    return _shorter(found, graph)


def _is_within_a_chain(found: Chain, graph: Graph) -> bool:
    before = graph.producer(found.source)
    whole = chain(before, graph) if before is not None else None
    return whole is not None and any(node is found.nodes[0] for node in whole.nodes)


def _into_layer_in_front(found: Chain, graph: Graph) -> bool:
    way = _way_in_front(found, graph)
    if way is None or _gains_nothing(way, found):
        return False
    new = _nodes(scaled_behind(way.layer, way.scaling, graph), found, graph)
    return new is not None and _put([(way.layer.node, new), *way.crossed], found, graph, found.result)


def _into_layer_behind(found: Chain, graph: Graph) -> bool:
    way = _way_behind(found, graph)
    if way is None or _gains_nothing(way, found) or not _is_moderate(way.scaling):
        return False
    new = _nodes(scaled_before(way.layer, way.scaling, graph), found, graph)
    return new is not None and _put([*way.crossed, (way.layer.node, new)], found, graph, way.layer.node.output[0])


def _way_in_front(found: Chain, graph: Graph) -> Way | None:
    crossed: Steps = []
    scaling, value, reader = found.scaling, found.source, found.nodes[0]
    while True:
        node = graph.producer(value)
        if node is None or graph.only_reader(value) is not reader:
            return None
        layer = linear(node, graph)
        if layer is not None:
            return Way(layer, scaling, crossed)
        beyond = across(node, scaling, graph, backwards=True)
        if beyond is None:
            return None
        crossed.insert(0, (node, beyond.nodes))
        scaling, value, reader = beyond.scaling, beyond.value, node


def _way_behind(found: Chain, graph: Graph) -> Way | None:
    crossed: Steps = []
    scaling, value = found.scaling, found.result
    while True:
        node = graph.only_reader(value)
        if node is None or list(node.input).count(value) != 1 or node.input[0] != value:
            return None
        layer = linear(node, graph)
        if layer is not None:
            return Way(layer, scaling, crossed)
        beyond = across(node, scaling, graph, backwards=False)
        if beyond is None:
            return None
        crossed.append((node, beyond.nodes))
        scaling, value = beyond.scaling, beyond.value


def _gains_nothing(way: Way, found: Chain) -> bool:
    """A MatMul needs an Add for what is shifted."""
    return way.layer.node.op_type == "MatMul" and [node.op_type for node in found.nodes] in (["Add"], ["Sub"])


def _is_moderate(scaling: Scaling) -> bool:
    """How much larger what the layer reads becomes, squared, if it has mean 0 and deviation 1 now."""
    scale, shift = np.broadcast_arrays(scaling.scale, scaling.shift)
    growth = (1 + shift[scale != 0] ** 2) / scale[scale != 0] ** 2
    return bool(((growth >= MODERATE[0]) & (growth <= MODERATE[1])).all())


def _nodes(folded: Folded, found: Chain, graph: Graph) -> list[onnx.NodeProto] | None:
    if folded is None:
        return None
    layer, left = folded
    if not left.any():
        return [layer]
    shift = graph.add_constant(left.astype(np.float32), f"{found.result}/shift")
    return [layer, graph.node("Add", ["", shift], found.nodes[-1])]


def _put(steps: Steps, found: Chain, graph: Graph, result: str) -> bool:
    """Take the chain out and put the new nodes in; a value that keeps its name keeps its contents."""
    first = steps[0][0].input[0]
    value = found.source if first == found.result else first
    for node in found.nodes:
        graph.replace(node, [])
    for old, made in steps:
        for node in made:
            node.input[0] = value
            value = result if node is steps[-1][1][-1] else graph.fresh(f"{old.output[0]}/scaled")
            node.output[0] = value
        graph.replace(old, made)
    return True


def _shorter(found: Chain, graph: Graph) -> list[onnx.NodeProto] | None:
    """One Mul, one Add, or both; not where there is neither fewer nodes nor an operator that trains or quantizes badly."""
    scaling, count = found.scaling, len(found.nodes)
    wanted = int(scaling.scales) + int(scaling.shifts)
    operators = {node.op_type for node in found.nodes}
    rank = graph.rank(found.source)
    if (scaling.axis is not None and rank is None) or ("BatchNormalization" not in operators and wanted > count):
        return None
    if operators <= {"Mul", "Add"} and wanted == count:
        return None
    parts = [("Mul", scaling.scale, scaling.scales), ("Add", scaling.shift, scaling.shifts)]
    nodes, value = [], found.source
    for operator, vector, is_wanted in parts:
        if is_wanted:
            shape = () if vector.size == 1 else (-1, *[1] * ((rank or 0) - (scaling.axis or 0) - 1))
            constant = graph.add_constant(vector.astype(np.float32).reshape(shape), f"{found.result}/{operator.lower()}")
            nodes.append(graph.node(operator, [value, constant], found.nodes[0]))
            value = nodes[-1].output[0]
    nodes = nodes or [graph.node("Identity", [value], found.nodes[0])]
    nodes[-1].output[0] = found.result
    for node in found.nodes[1:]:
        graph.replace(node, [])
    return nodes
