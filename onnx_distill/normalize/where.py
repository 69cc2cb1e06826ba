"""What a Where broadcasts is expanded first: the runtime's gradient keeps the full shape where it should be summed (1.19.2).

    Where(c, x, y)      x becomes Expand(x, Shape(y)), then that of Shape(c), and the like for y; only what is not full already

Must not fire on integers and booleans, on a condition (it has no gradient), on one number (it is not trained), or where the shapes
are not known to differ.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Where",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if graph.dtype(node.input[1]) != onnx.TensorProto.FLOAT:
        return None
    full, nodes, inputs = graph.shape(node.output[0]), [], list(node.input)
    for place in (1, 2):
        if _is_smaller(node.input[place], full, graph):
            others = [other for other in node.input if other != node.input[place]]
            nodes += _expanded(node, graph, node.input[place], others)
            inputs[place] = nodes[-1].output[0]
    return [*nodes, graph.changed(node, inputs)] if nodes else None


def _is_smaller(value: str, full: tuple[int | str, ...] | None, graph: Graph) -> bool:
    shape, values = graph.shape(value), graph.constant(value)
    if shape is None or full is None or (values is not None and values.size == 1):
        return False
    return len(shape) < len(full) or any(size == 1 and other != 1 for size, other in zip(shape, full))


def _expanded(node: onnx.NodeProto, graph: Graph, value: str, others: list[str]) -> list[onnx.NodeProto]:
    """As large as all of them together. Of constant sizes last: an Expand that reads constants alone would become a larger one."""
    shapes = {other: graph.shape(other) or () for other in others}
    full = [other for other in others if shapes[other] == graph.shape(node.output[0])]
    wanted = full[:1] or sorted((other for other in others if set(shapes[other]) != {1}), key=lambda o: _is_fixed(shapes[o]))
    nodes: list[onnx.NodeProto] = []
    for other in wanted:
        if _is_fixed(shapes[other]):
            shape = graph.add_constant(np.array(shapes[other], np.int64), f"{value}/shape")
        else:
            nodes.append(graph.node("Shape", [other], node))
            shape = nodes[-1].output[0]
        nodes.append(graph.node("Expand", [value, shape], node))
        value = nodes[-1].output[0]
    return nodes


def _is_fixed(shape: tuple[int | str, ...]) -> bool:
    return all(isinstance(size, int) for size in shape)
