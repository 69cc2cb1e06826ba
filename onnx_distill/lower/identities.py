"""Nodes of a training model that copy a value taken out: what reads the copy reads the original. Identity, and a Sum of one value."""

from __future__ import annotations

import onnx

from onnx_distill.lower.nodes import Constants, with_nodes


def lower_identities(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model without copying nodes, save those that give a graph output its name."""
    outputs = {value.name for value in training.graph.output}
    original: dict[str, str] = {}
    nodes = []
    for node in training.graph.node:
        inputs = [original.get(name, name) for name in node.input]
        copies = node.op_type == "Identity" or (node.op_type == "Sum" and len(inputs) == 1)
        if copies and node.output[0] not in outputs:
            original[node.output[0]] = inputs[0]
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = inputs
        nodes.append(copy)
    return with_nodes(training, nodes, Constants())
