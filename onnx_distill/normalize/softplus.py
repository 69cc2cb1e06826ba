"""log(1 + exp(x)) becomes Softplus, which does not overflow.

Must not fire on other numbers than 1.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import line, made_by

OPS = ("Log",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    x = softplus_of(node.output[0], graph)
    return None if x is None else [graph.node("Softplus", [x], node, node.output[0])]


def softplus_of(value: str, graph: Graph) -> str | None:
    """x where the value is softplus(x), as one operator or written out."""
    node = made_by(value, graph, "Softplus", "Log")
    if node is None or node.op_type == "Softplus":
        return None if node is None else node.input[0]
    slope, value, offset = line(node.input[0], graph)
    exp = made_by(value, graph, "Exp")
    return exp.input[0] if exp is not None and (slope, offset) == (1, 1) else None
