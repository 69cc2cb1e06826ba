"""Nodes that compute what an earlier one has computed taken out: the filter in blocks that forward and dx both read, bounds of steps.

The runtime does so too, but may keep the later one of two, behind which a model's own order (order.py) would wait.
It does not fire for nodes that make an output of the graph, or that are random.
"""

from __future__ import annotations

import onnx

from onnx_distill.lower.nodes import Constants, with_nodes

RANDOM = frozenset("Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


def lower_repeats(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model in which equal nodes of equal inputs are one."""
    outputs = {value.name for value in training.graph.output}
    first: dict[tuple, onnx.NodeProto] = {}
    same: dict[str, str] = {}
    nodes = []
    for node in training.graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [same.get(name, name) for name in copy.input]
        earlier = first.setdefault(_what(copy), copy)
        if earlier is copy or outputs.intersection(copy.output) or copy.op_type in RANDOM:
            nodes.append(copy)
        else:
            same.update(zip(copy.output, earlier.output))
    return with_nodes(training, nodes, Constants())


def _what(node: onnx.NodeProto) -> tuple:
    """What a node computes; which of its outputs are asked for counts too."""
    attributes = sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute)
    return node.domain, node.op_type, tuple(node.input), tuple(attributes), tuple(bool(name) for name in node.output)
