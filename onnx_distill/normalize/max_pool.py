"""A MaxPool whose Indices nobody reads counts them row by row: with storage_order 1 its gradient goes to the wrong pixels.

Must not fire where the Indices are read, which would then be others.
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("MaxPool",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if not attribute(node, "storage_order", 0) or any(graph.is_used(name) for name in node.output[1:]):
        return None
    return [graph.changed(node, storage_order=None)]
