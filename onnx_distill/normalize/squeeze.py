"""A Squeeze that drops whatever has size 1 says which axes that are: a batch of one image must keep its batch axis.

An axis whose size is free is kept. Must not fire where axes are given, or the rank is not known.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Squeeze",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    shape = graph.shape(node.input[0])
    if shape is None or (len(node.input) > 1 and node.input[1]):
        return None
    ones = np.array([axis for axis, size in enumerate(shape) if size == 1], np.int64)
    return [graph.changed(node, [node.input[0], graph.add_constant(ones, f"{node.output[0]}/axes")])]
