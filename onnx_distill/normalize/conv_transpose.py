"""A transposed convolution with constant weights becomes a convolution of the image spread with zeros: it has a gradient and an
integer kernel, which ConvTranspose lacks.

    spread      [n, c, h, w] -> [n, c, h, 1, w, 1] -> stride - 1 zeros behind each -> [n, c, h * stride, w * stride]
    weight      [in, out / group, kh, kw] -> [out, in / group, kh, kw], turned round in space
    pads        window - 1 - pad at the begin; at the end what the output's size asks for; negative ones crop

Must not fire where the weight is computed, the image's size is free, or auto_pad or output_shape are not written out yet.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.window import Window, auto_pad

OPS = ("ConvTranspose",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    weight, window, sizes = graph.constant(node.input[1]), Window.of(node, graph), graph.sizes(node.input[0])
    if weight is None or window is None or not sizes or auto_pad(node) != "NOTSET" or attribute(node, "output_shape"):
        return None
    group = attribute(node, "group", 1)
    turned = graph.set_constant(node.input[1], _turned(weight, group), node)
    begin, end = _pads(node, window, sizes)
    nodes = _spread(node, graph, weight.shape[0], sizes, window)
    value = nodes[-1].output[0] if nodes else node.input[0]
    if min(begin + end) < 0:
        crop = np.array([0, 0, *(min(p, 0) for p in begin), 0, 0, *(min(p, 0) for p in end)], np.int64)
        nodes.append(graph.node("Pad", [value, graph.add_constant(crop, f"{node.output[0]}/crop")], node))
        value = nodes[-1].output[0]
    pads = [max(p, 0) for p in begin + end]
    kernel, dilations = list(window.kernel), list(window.dilations)
    shape = {"kernel_shape": kernel, "dilations": dilations, "pads": pads, "group": group}
    return [*nodes, graph.node("Conv", [value, turned, *node.input[2:]], node, node.output[0], **shape)]


def _turned(weight: np.ndarray, group: int) -> np.ndarray:
    inputs, outputs, *kernel = weight.shape
    grouped = weight.reshape(group, inputs // group, outputs, *kernel).swapaxes(1, 2)
    return np.flip(grouped.reshape(group * outputs, inputs // group, *kernel), tuple(range(2, weight.ndim)))


def _pads(node: onnx.NodeProto, window: Window, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    added = attribute(node, "output_padding", [0] * len(sizes))
    begin = tuple(extent - 1 - pad for extent, pad in zip(window.extent, window.begin))
    # the spread image ends in stride - 1 zeros already
    end = tuple(e - 1 - pad - (s - 1) + a for e, pad, s, a in zip(window.extent, window.end, window.strides, added))
    return begin, end


def _spread(node: onnx.NodeProto, graph: Graph, channels: int, sizes, window: Window) -> list[onnx.NodeProto]:
    if set(window.strides) == {1}:
        return []
    apart = [part for size in sizes for part in (size, 1)]
    zeros = [0, 0, *[0, 0] * len(sizes), 0, 0, *(part for stride in window.strides for part in (0, stride - 1))]
    shapes = ([0, channels, *apart], zeros, [0, channels, *(size * s for size, s in zip(sizes, window.strides))])
    nodes, value = [], node.input[0]
    for operator, content in zip(("Reshape", "Pad", "Reshape"), shapes):
        nodes.append(
            graph.node(operator, [value, graph.add_constant(np.array(content, np.int64), f"{node.output[0]}/spread")], node)
        )
        value = nodes[-1].output[0]
    return nodes
