"""DepthToSpace and SpaceToDepth become Reshape, Transpose, Reshape, which have a gradient and hand integers on.

    DepthToSpace DCR    [n, b, b, c, h, w] -> [n, c, h, b, w, b]
    DepthToSpace CRD    [n, c, b, b, h, w] -> [n, c, h, b, w, b]
    SpaceToDepth        [n, c, h, b, w, b] -> [n, b, b, c, h, w]

Must not fire where channels or size are free.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("DepthToSpace", "SpaceToDepth")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    sizes, b = graph.sizes(node.input[0], (1, 2, 3)), attribute(node, "blocksize")
    if sizes is None:
        return None
    c, h, w = sizes
    if node.op_type == "SpaceToDepth":
        shapes, order = ((c, h // b, b, w // b, b), (c * b * b, h // b, w // b)), [0, 3, 5, 1, 2, 4]
    elif attribute(node, "mode", b"DCR") == b"DCR":
        shapes, order = ((b, b, c // b // b, h, w), (c // b // b, h * b, w * b)), [0, 3, 4, 1, 5, 2]
    else:
        shapes, order = ((c // b // b, b, b, h, w), (c // b // b, h * b, w * b)), [0, 1, 4, 2, 5, 3]
    before, after = (graph.add_constant(np.array([0, *shape], np.int64), f"{node.output[0]}/shape") for shape in shapes)
    apart = graph.node("Reshape", [node.input[0], before], node)
    moved = graph.node("Transpose", apart.output, node, perm=order)
    return [apart, moved, graph.node("Reshape", [moved.output[0], after], node, node.output[0])]
