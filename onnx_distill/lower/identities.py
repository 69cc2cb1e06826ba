"""Identity nodes of a training model taken out: what reads the copy reads the original."""

from __future__ import annotations

import onnx

from onnx_distill.lower.nodes import Constants, with_nodes


def lower_identities(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model without Identity nodes, save those that give a graph output its name."""
    outputs = {value.name for value in training.graph.output}
    original: dict[str, str] = {}
    nodes = []
    for node in training.graph.node:
        inputs = [original.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            original[node.output[0]] = inputs[0]
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = inputs
        nodes.append(copy)
    return with_nodes(training, nodes, Constants())
