"""A Split with an output that nothing reads becomes a Slice for each of the others: with one, its gradient is silently wrong.

Must not fire where all outputs are read, or where a size that a Slice needs is neither given nor known.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Split",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    used = [graph.is_used(name) for name in node.output]
    if all(used) or not any(used):
        return None
    sizes = _sizes(node, graph)
    if sizes is None:
        return None
    ends = np.cumsum(sizes)
    axis = graph.add_constant(np.array([attribute(node, "axis", 0)], np.int64), f"{node.output[0]}/axis")
    parts = zip(node.output, ends - sizes, ends, used)
    return [_slice(node, graph, name, (first, last), axis) for name, first, last, is_used in parts if is_used]


def _sizes(node: onnx.NodeProto, graph: Graph) -> np.ndarray | None:
    if len(node.input) > 1 and node.input[1]:
        return graph.constant(node.input[1])
    whole, count = graph.sizes(node.input[0], [attribute(node, "axis", 0)]), len(node.output)
    if whole is None:
        return None
    part = -(-whole[0] // count)
    return np.array([*[part] * (count - 1), whole[0] - part * (count - 1)], np.int64)


def _slice(node: onnx.NodeProto, graph: Graph, name: str, ends: tuple[int, int], axis: str) -> onnx.NodeProto:
    first, last = (graph.add_constant(np.array([end], np.int64), f"{name}/end") for end in ends)
    return graph.node("Slice", [node.input[0], first, last, axis], node, name)
