"""PRelu written out by Keras and others becomes PRelu, or LeakyRelu where the slope is one number.

    Relu(x) - slope * Relu(-x), Relu(x) + (-slope) * Relu(-x)           PRelu(x, slope)
    Relu(x) + slope * (x - |x|) * 0.5                                   PRelu(x, slope)

Must not fire where the slope is computed, or has another shape than PRelu allows (it must not
widen x), or is one number below 0.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import made_by, multiples, products

OPS = ("Add", "Sub")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    pairs = [(node.input[0], node.input[1], 1.0 if node.op_type == "Add" else -1.0)]
    pairs += [(node.input[1], node.input[0], 1.0)] if node.op_type == "Add" else []
    for positive, negative, sign in pairs:
        relu = made_by(positive, graph, "Relu")
        if relu is None:
            continue
        x = relu.input[0]
        alone = _times_negative_part(negative, x, graph)
        if alone is not None and sign * alone >= 0:
            return [graph.node("LeakyRelu", [x], node, node.output[0], alpha=sign * alone)]
        found = _slope(negative, x, graph)
        if found is not None:
            return [_node(node, graph, x, found[0], sign * found[1])]
    return None


def _slope(value: str, x: str, graph: Graph) -> tuple[str, float] | None:
    """(slope, n) where the value is n * slope * min(x, 0)."""
    for n, slope, part in products(value, graph):
        factor = _times_negative_part(part, x, graph)
        if factor is not None and _fits(slope, x, graph):
            return slope, n * factor
    return None


def _times_negative_part(value: str, x: str, graph: Graph) -> float | None:
    """n where the value is n * min(x, 0)."""
    for n, inner in multiples(value, graph):
        relu, difference = made_by(inner, graph, "Relu"), made_by(inner, graph, "Sub")
        if relu is not None and (-1.0, x) in multiples(relu.input[0], graph):
            return -n
        size = made_by(difference.input[1], graph, "Abs") if difference is not None else None
        if difference is not None and size is not None and difference.input[0] == size.input[0] == x:
            return 2 * n
    return None


def _fits(slope: str, x: str, graph: Graph) -> bool:
    sizes, wanted = graph.shape(slope), graph.shape(x)
    if not graph.is_constant(slope) or sizes is None or wanted is None or len(sizes) > len(wanted):
        return False
    return all(size in (1, whole) for size, whole in zip(reversed(sizes), reversed(wanted)))


def _node(node: onnx.NodeProto, graph: Graph, x: str, slope: str, factor: float) -> onnx.NodeProto:
    values = graph.constant(slope)
    if factor != 1 and values is not None:
        slope = graph.add_constant((values * np.float32(factor)).astype(np.float32), slope)
    return graph.node("PRelu", [x, slope], node, node.output[0])
