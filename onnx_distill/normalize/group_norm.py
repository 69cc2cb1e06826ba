"""GroupNormalization and MeanVarianceNormalization become operators that have a gradient.

    GroupNormalization(x, scale, bias)      Reshape to [n, groups, -1], InstanceNormalization, Reshape back, Mul, Add
    MeanVarianceNormalization(x)            d = x - mean(x);  d / (sqrt(mean(d * d)) + 1e-9), in parts

Must not fire on other types than float32, on channels that are not known, or a scale that is computed.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("GroupNormalization", "MeanVarianceNormalization")
TINY = 1e-9  # in the operator's definition


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if graph.dtype(node.input[0]) != onnx.TensorProto.FLOAT:
        return None
    return _groups(node, graph) if node.op_type == "GroupNormalization" else _mean_variance(node, graph)


def _groups(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    x, groups, shape = node.input[0], attribute(node, "num_groups", 1), graph.shape(node.input[0])
    per_channel = [graph.constant(name) for name in node.input[1:3]]
    if shape is None or not isinstance(shape[1], int) or any(values is None for values in per_channel):
        return None
    flat = graph.add_constant(np.array([0, groups, -1]), f"{node.output[0]}/groups")
    ones, zeros = (graph.add_constant(np.full(groups, n, np.float32), f"{node.output[0]}/{n}") for n in (1, 0))
    grouped = graph.node("Reshape", [x, flat], node)
    epsilon = attribute(node, "epsilon", 1e-5)
    normal = graph.node("InstanceNormalization", [grouped.output[0], ones, zeros], node, epsilon=epsilon)
    whole = graph.node("Shape", [x], node)
    back = graph.node("Reshape", [normal.output[0], whole.output[0]], node)
    rest = [1] * (len(shape) - 2)
    scale, bias = (
        graph.add_constant(np.repeat(values, shape[1] // len(values)).reshape(-1, *rest), name)
        for values, name in zip(per_channel, node.input[1:3])
        if values is not None
    )
    scaled = graph.node("Mul", [back.output[0], scale], node)
    return [grouped, normal, whole, back, scaled, graph.node("Add", [scaled.output[0], bias], node, node.output[0])]


def _mean_variance(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    axes = attribute(node, "axes", [0, 2, 3])
    nodes = _mean(node.input[0], axes, node, graph)
    nodes.append(graph.node("Sub", [node.input[0], nodes[-1].output[0]], node))
    centred = nodes[-1].output[0]
    nodes.append(graph.node("Mul", [centred, centred], node))
    nodes += _mean(nodes[-1].output[0], axes, node, graph)
    nodes.append(graph.node("Sqrt", [nodes[-1].output[0]], node))
    tiny = graph.add_constant(np.array(TINY, np.float32), f"{node.output[0]}/tiny")
    nodes.append(graph.node("Add", [nodes[-1].output[0], tiny], node))
    return [*nodes, graph.node("Div", [centred, nodes[-1].output[0]], node, node.output[0])]


def _mean(value: str, axes: list[int], node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    if graph.opset < 18:
        return [graph.node("ReduceMean", [value], node, axes=axes, keepdims=1)]
    return [
        graph.node("ReduceMean", [value, graph.add_constant(np.array(axes), f"{node.output[0]}/axes")], node, keepdims=1)
    ]
