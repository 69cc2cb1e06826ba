"""Identity and Dropout are removed: at inference they hand their input on.

Must not fire where the output is a graph output whose input something else names too (an input, an initializer or another
output), or where a Dropout's mask is read.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Identity", "Dropout")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if any(graph.is_used(mask) for mask in node.output[1:]):
        return None
    return [] if graph.remove(node) else None
