"""Sum and Mean, which the runtime gives no gradient (1.19.2), become chains of Add, which runs in integers; a Mean ends in a Mul.

Must not fire on other types than float32.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Sum", "Mean")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if graph.dtype(node.output[0]) != onnx.TensorProto.FLOAT:
        return None
    if len(node.input) == 1:
        return [graph.node("Identity", node.input, node, node.output[0])]
    nodes, total = [], node.input[0]
    for place, value in enumerate(node.input[1:], start=2):
        ends = place == len(node.input) and node.op_type == "Sum"
        nodes.append(graph.node("Add", [total, value], node, node.output[0] if ends else None))
        total = nodes[-1].output[0]
    if node.op_type == "Mean":
        share = graph.add_constant(np.array(1 / len(node.input), np.float32), f"{node.output[0]}/share")
        nodes.append(graph.node("Mul", [total, share], node, node.output[0]))
    return nodes
