"""Max(x, a * x) with 0 <= a <= 1 becomes LeakyRelu; Min with a >= 1 too.

Must not fire where a is no single number.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import multiples

OPS = ("Max", "Min")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if len(node.input) != 2 or graph.dtype(node.output[0]) != onnx.TensorProto.FLOAT:
        return None
    for x, other in (node.input, reversed(node.input)):
        for alpha, value in multiples(other, graph):
            if value == x and (0 <= alpha <= 1 if node.op_type == "Max" else alpha >= 1):
                return [graph.node("LeakyRelu", [x], node, node.output[0], alpha=alpha)]
    return None
