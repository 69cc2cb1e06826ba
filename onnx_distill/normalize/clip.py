"""Min, Max, Relu and Clip with numbers, alone or in a row, become one Relu or Clip, which the quantizer behind absorbs.

    Max(x, 0)                          Relu(x)
    Min(x, 6), Max(x, -1)              Clip(x, , 6), Clip(x, -1)
    Min(Relu(x), 6), Relu(Clip(x))     Clip(x, 0, 6): the bounds of two in a row
    Clip(x, [0], [6])                  Clip(x, 0, 6): scalars

Must not fire on other types than float32, on bounds that are computed or no single number, or merge two where something else
reads what lies between.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import made_by, with_number

OPS = ("Min", "Max", "Relu", "Clip")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    own = _bounds(node, graph)
    if own is None or graph.dtype(node.output[0]) != onnx.TensorProto.FLOAT:
        return None
    value, low, high = own
    above = made_by(value, graph, *OPS)
    inner = _bounds(above, graph) if above is not None and graph.only_reader(value) is node else None
    if inner is not None:
        value, low, high = inner[0], min(max(inner[1], low), high), max(min(inner[2], high), low)
    made = _node(node, graph, value, low, high)
    return None if inner is None and made.op_type == node.op_type and _is_plain(node, graph) else [made]


def _is_plain(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether the bounds of a Relu or Clip are scalars: some exporters write them as tensors of one number."""
    bounds = [graph.constant(name) for name in node.input[1:] if name]
    return all(bound is not None and bound.ndim == 0 for bound in bounds)


def _bounds(node: onnx.NodeProto, graph: Graph) -> tuple[str, float, float] | None:
    """(x, low, high) of a node that is clip(x, low, high), infinite where it has no bound."""
    if node.op_type == "Relu":
        return node.input[0], 0.0, math.inf
    if node.op_type == "Clip":
        given = [*node.input[1:], "", ""][:2]
        low, high = (graph.scalar(name) if name else end for name, end in zip(given, (-math.inf, math.inf)))
        return None if low is None or high is None or low > high or _old(graph) else (node.input[0], low, high)
    found = with_number(node, graph) if len(node.input) == 2 else None
    if found is None:
        return None
    value, bound, _ = found
    return (value, -math.inf, bound) if node.op_type == "Min" else (value, bound, math.inf)


def _old(graph: Graph) -> bool:
    return graph.opset < 11  # bounds are attributes


def _node(node: onnx.NodeProto, graph: Graph, value: str, low: float, high: float) -> onnx.NodeProto:
    if (low, high) == (0.0, math.inf):
        return graph.node("Relu", [value], node, node.output[0])
    bounds = [_bound(end, node, graph) for end in (low, high)]
    return graph.node("Clip", [value, *(bounds if bounds[1] else bounds[:1])], node, node.output[0])


def _bound(end: float, node: onnx.NodeProto, graph: Graph) -> str:
    return graph.add_constant(np.array(end, np.float32), f"{node.output[0]}/bound") if math.isfinite(end) else ""
