"""Flatten(x, axis = 1) becomes Reshape(x, [0, -1]), which the runtime's optimizer passes integers through since longer (1.19.2)."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Flatten",)


def find(node: onnx.NodeProto, graph: Graph) -> tuple[()] | None:
    return () if attribute(node, "axis", 1) == 1 else None


def rewrite(node: onnx.NodeProto, graph: Graph) -> None:
    shape = graph.add_constant(np.array([0, -1], np.int64), f"{node.name}/shape")
    graph.replace(node, [graph.node("Reshape", [node.input[0], shape], node, output=node.output[0])])
