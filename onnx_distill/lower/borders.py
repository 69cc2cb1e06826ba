"""Zeros left and right of a depthwise convolution's input, put there while it is still integers, for the filter's gradient.

    dw = Conv(x as one image of N * C channels, dy as its filter)      three columns of sums, of which the outer two meet padding

Where it meets padding the blocked kernel makes one column at a time and looks at each pixel whether it is there: 2.4 times slower
than three columns of an input that has its zeros in memory (docs/experiments.md). Rows of padding cost nothing. So

    x = DequantizeLinear(q)        ->        x = DequantizeLinear(Pad(q, with its zero point))

which moves bytes, not floats; the forward convolution reads the same wider x. Sums gain zeros at their ends: equal to the bit.

It does not fire where anything but one depthwise convolution, forward and dw, reads x, without column padding, or at stride 2,
where x is four times as large as dw's convolution is dear (1.6 ms for the bytes against 0.8 gained).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx

from onnx_distill.lookup import array, attribute, initializers
from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.nodes import Constants, Nodes, changed, with_nodes


@dataclass(frozen=True)
class _Found:
    """x = DequantizeLinear(q), the convolution that reads it, and the view of it and the convolution that make dw."""

    dequantize: onnx.NodeProto
    forward: onnx.NodeProto
    view: onnx.NodeProto
    filter_gradient: onnx.NodeProto
    images: list[int]  # [1, n * c, h, w]


def lower_borders(training: onnx.ModelProto, block: int) -> onnx.ModelProto:
    """A copy of a training model whose layouts are settled, with the borders of depthwise inputs written out."""
    constants, known = Constants(), initializers(training)
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in training.graph.node:
        for name in node.input:
            readers[name].append(node)
    found = [each for node in training.graph.node for each in [_found(node, readers, known)] if each]
    new = {key: nodes for each in found for key, nodes in _rewritten(each, constants, block).items()}
    return with_nodes(training, [made for node in training.graph.node for made in new.get(id(node), [node])], constants)


def _found(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], known: dict) -> _Found | None:
    if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.input[2] not in known or known[node.input[2]].dims:
        return None
    x = node.output[0]
    forward = [each for each in readers[x] if _is_depthwise(each, x)]
    views = [each for each in readers[x] if each.op_type == "Reshape" and each.input[1] in known]
    if len(readers[x]) != 2 or not forward or not views:
        return None
    behind, images = readers[views[0].output[0]], array(known[views[0].input[1]]).tolist()
    if len(behind) != 1 or not _is_depthwise(behind[0], views[0].output[0]) or len(images) != 4:
        return None
    gains = any(_columns(behind[0])) and attribute(forward[0], "strides", [1, 1]) == [1, 1]
    return _Found(node, forward[0], views[0], behind[0], images) if gains else None


def _is_depthwise(node: onnx.NodeProto, x: str) -> bool:
    return node.op_type == "Conv" and node.domain == DOMAIN and node.input[0] == x and attribute(node, "group", 1) > 1


def _columns(conv: onnx.NodeProto) -> tuple[int, int]:
    """Its padding left and right."""
    _, left, _, right = attribute(conv, "pads")
    return left, right


def _rewritten(found: _Found, constant: Constants, block: int) -> dict[int, list[onnx.NodeProto]]:
    """id of a node -> what takes its place."""
    _, channels, h, w = found.images
    c = attribute(found.forward, "group")
    left, right = _columns(found.filter_gradient)
    graph = Nodes(constant, f"{found.dequantize.output[0]}/borders")
    rows = graph.reshape(found.dequantize.input[0], [channels // block * h, w, block])
    wide = graph("Pad", rows, constant([0, left, 0, 0, right, 0]), found.dequantize.input[2])
    wide = graph.reshape(wide, [channels // c, c, h, left + w + right])
    view = changed(found.view, {1: constant([1, channels, h, left + w + right])})
    return {
        id(found.dequantize): [*graph.nodes, changed(found.dequantize, {0: wide})],
        id(found.forward): [_narrower(found.forward, left, right)],
        id(found.view): [view],
        id(found.filter_gradient): [_narrower(found.filter_gradient, left, right)],
    }


def _narrower(conv: onnx.NodeProto, left: int, right: int) -> onnx.NodeProto:
    made = changed(conv, {})
    pads = next(entry for entry in made.attribute if entry.name == "pads").ints
    pads[1], pads[3] = pads[1] - left, pads[3] - right
    return made
