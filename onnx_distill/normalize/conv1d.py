"""A grouped convolution over one axis becomes one over a plane a single pixel high: the runtime's gradient of the former writes
where it should not (1.19.2).

Its input is unsqueezed and its output squeezed. A Relu or Clip behind is taken before the Squeeze, where it melts into the
convolution's quantizer, and a Squeeze that an Unsqueeze undoes goes with it.

Must not fire on one group, or where the weight's rank is not known.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Conv", "Relu", "Clip", "Unsqueeze")
HEIGHT = 2  # the axis that is put in


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if node.op_type == "Conv":
        is_grouped = attribute(node, "group", 1) > 1 and graph.rank(node.input[1]) == 3
        return _as_plane(node, graph) if is_grouped else None
    squeeze = graph.producer(node.input[0])
    if squeeze is None or not _moves_height(squeeze, "Squeeze", graph):
        return None
    if node.op_type == "Unsqueeze":
        return _undo(node, squeeze, graph)
    return _before(node, squeeze, graph)


def _as_plane(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    height = graph.add_constant(np.array([HEIGHT], np.int64), f"{node.output[0]}/height")
    image = graph.node("Unsqueeze", [node.input[0], height], node)
    nodes, weight = [image], node.input[1]
    values = graph.constant(weight)
    if values is not None:
        weight = graph.set_constant(weight, np.expand_dims(values, HEIGHT), node)
    else:
        nodes.append(graph.node("Unsqueeze", [weight, height], node))
        weight = nodes[-1].output[0]
    plane = graph.changed(node, [image.output[0], weight, *node.input[2:]], **_plane_attributes(node))
    plane.output[0] = graph.fresh(f"{node.output[0]}/plane")
    return [*nodes, plane, graph.node("Squeeze", [plane.output[0], height], node, node.output[0])]


def _plane_attributes(node: onnx.NodeProto) -> dict[str, list[int]]:
    given = {name: attribute(node, name) for name in ("kernel_shape", "strides", "dilations")}
    made = {name: [1, *values] for name, values in given.items() if values}
    pads = attribute(node, "pads")
    return {**made, "pads": [0, pads[0], 0, pads[1]]} if pads else made


def _moves_height(node: onnx.NodeProto, operator: str, graph: Graph) -> bool:
    axes = graph.constant(node.input[1]) if node.op_type == operator and len(node.input) > 1 else None
    rank = graph.rank(node.input[0]) if axes is not None else None
    image = 4 if operator == "Squeeze" else 3
    return axes is not None and rank == image and [axis % 4 for axis in axes.tolist()] == [HEIGHT]


def _undo(node: onnx.NodeProto, squeeze: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    if not _moves_height(node, "Unsqueeze", graph) or node.output[0] in graph.outputs:
        return None
    graph.replace(node, [])
    graph.rename(node.output[0], squeeze.input[0])
    return []


def _before(node: onnx.NodeProto, squeeze: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    made_by = graph.producer(squeeze.input[0])
    alone = graph.only_reader(node.input[0]) is node and graph.only_reader(squeeze.input[0]) is squeeze
    if made_by is None or made_by.op_type != "Conv" or not alone:
        return None
    inner = graph.changed(node, [squeeze.input[0], *node.input[1:]])
    inner.output[0] = graph.fresh(f"{node.output[0]}/plane")
    return [inner, graph.node("Squeeze", [inner.output[0], squeeze.input[1]], node, node.output[0])]
