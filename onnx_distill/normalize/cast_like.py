"""CastLike becomes a Cast to the type that the other value has, which has a gradient, or is done beforehand where it casts a constant.

torch's dynamo exporter and what onnx writes out of operators of later opsets are full of it. Must not fire where that type is not
known.
"""

from __future__ import annotations

from onnx_distill.facts.logits import label
from onnx_distill.normalize.graph import Graph


def rewrite(graph: Graph) -> list[str]:
    done = []
    for node in graph.nodes:
        kind = graph.dtype(node.input[1]) if node.op_type == "CastLike" and node.domain in ("", "ai.onnx") else None
        if kind:
            graph.replace(node, [graph.node("Cast", [node.input[0]], node, node.output[0], to=kind)])
            done.append(label(node))
    return done
