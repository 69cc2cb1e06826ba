"""A Transpose without perm gets it written out, last axis first: the runtime's gradient of it wants one.

Must not fire where perm is there, or the rank is not known.
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Transpose",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    rank = graph.rank(node.input[0])
    if attribute(node, "perm") is not None or rank is None:
        return None
    return [graph.changed(node, perm=list(range(rank))[::-1])]
