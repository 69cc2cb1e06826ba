"""A MatMul with a constant vector becomes one with a matrix of one column (or row) and a Squeeze: its gradient fails in the runtime.

Must not fire on matrices, nor on a vector that is computed.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("MatMul",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    for place, missing in ((0, 0), (1, 1)):
        vector = graph.constant(node.input[place])
        if vector is not None and vector.ndim == 1:
            inputs = list(node.input)
            inputs[place] = graph.set_constant(inputs[place], np.expand_dims(vector, missing), node)
            product = graph.node("MatMul", inputs, node)
            axis = graph.add_constant(np.array([missing - 2], np.int64), f"{node.output[0]}/axis")
            return [product, graph.node("Squeeze", [product.output[0], axis], node, node.output[0])]
    return None
