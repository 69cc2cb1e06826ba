"""A mean over space becomes GlobalAveragePool, a maximum over space MaxPool: both have a gradient and an integer kernel.

    ReduceMean over all axes of space, AveragePool of the whole image      GlobalAveragePool
    ReduceMax over all axes of space, GlobalMaxPool                        MaxPool with the image as its window, static size only
    keepdims = 0                                                           a Flatten behind
    of a Transpose to channels last, axes 1 and 2                          the same before the Transpose

Must not fire on other axes; where axes are computed in the graph; and on the mean and the variance of a normalization that is
written out (a Sub subtracts the mean from what it is the mean of; a variance is the mean of a square): in integers they would
lose what they are for.
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.window import Window, auto_pad

OPS = ("ReduceMean", "ReduceMax", "AveragePool", "GlobalMaxPool")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if node.op_type == "AveragePool":
        fits = _is_whole_image(node, graph)
        return [graph.node("GlobalAveragePool", node.input, node, node.output[0])] if fits else None
    if node.op_type == "GlobalMaxPool":
        return _pooled(node, graph, node.input[0], True)
    if graph.dtype(node.input[0]) != onnx.TensorProto.FLOAT or _is_normalization(node, graph):
        return None
    return _over_space(node, graph) or _over_transposed_space(node, graph)


def reduced_axes(node: onnx.NodeProto, graph: Graph) -> tuple[int, ...] | None:
    """Axes of a Reduce operator, counted from the front and sorted, given as attribute or input; None where not known."""
    rank, axes = graph.rank(node.input[0]), attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        axes = graph.constant(node.input[1])
        axes = None if axes is None else axes.tolist()
    elif axes is None and not attribute(node, "noop_with_empty_axes", 0):
        axes = range(rank or 0)
    return None if rank is None or axes is None else tuple(sorted(axis % rank for axis in axes))


def _is_whole_image(node: onnx.NodeProto, graph: Graph) -> bool:
    window = Window.of(node, graph)
    if window is None or auto_pad(node) not in ("NOTSET", "VALID") or not window.is_unpadded:
        return False
    return window.extent == window.kernel == graph.sizes(node.input[0])


def _over_space(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    axes, rank = reduced_axes(node, graph), graph.rank(node.input[0]) or 0
    if rank < 3 or axes != tuple(range(2, rank)):
        return None
    return _pooled(node, graph, node.input[0], bool(attribute(node, "keepdims", 1)))


def _over_transposed_space(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    made_by, axes, rank = graph.producer(node.input[0]), reduced_axes(node, graph), graph.rank(node.input[0]) or 0
    if made_by is None or made_by.op_type != "Transpose" or axes is None or rank < 3:
        return None
    order = attribute(made_by, "perm", list(range(rank))[::-1])
    if order[0] != 0 or sorted(order[axis] for axis in axes) != list(range(2, rank)):
        return None
    nodes = _pooled(node, graph, made_by.input[0], bool(attribute(node, "keepdims", 1)))
    if nodes is None or not attribute(node, "keepdims", 1):
        return nodes
    nodes[-1].output[0] = graph.fresh(f"{node.output[0]}/pooled")
    return [*nodes, graph.node("Transpose", nodes[-1].output, node, node.output[0], perm=list(order))]


def _is_normalization(node: onnx.NodeProto, graph: Graph) -> bool:
    source, made_by = node.input[0], graph.producer(node.input[0])
    if made_by is not None and (made_by.op_type == "Pow" or (made_by.op_type == "Mul" and len(set(made_by.input)) == 1)):
        return True
    return any(reader.op_type == "Sub" and source in reader.input for reader in graph.readers(node.output[0]))


def _pooled(node: onnx.NodeProto, graph: Graph, image: str, keepdims: bool) -> list[onnx.NodeProto] | None:
    sizes, wanted = graph.sizes(image), node.output[0] if keepdims else None
    if node.op_type == "ReduceMean":
        pool = graph.node("GlobalAveragePool", [image], node, wanted)
    elif sizes:
        pool = graph.node("MaxPool", [image], node, wanted, kernel_shape=list(sizes))
    else:
        return None
    return [pool] if keepdims else [pool, graph.node("Flatten", pool.output, node, node.output[0], axis=1)]
