"""Depthwise convolutions of a training model, forward and backward, on the blocked-layout kernels.

In a training model Conv and ConvGrad fall back to one small matrix product per channel. The same three results as blocked
convolutions, reorders included, are 3 to 15 times faster (docs/performance.md):

    y  = Conv(x, w)                     as it stands, on blocked x and w
    dx = Conv(dy, w turned by 180 degrees); at stride 2, dy is spread with zeros first
    dw = Conv(x as one image of N * C channels, dy as its filter, dilated by the stride), summed over N

It does not fire when the channels are no multiple of the block, kernels are dilated, shapes are not known, strides other
than 1 or 2, or where dw would need negative padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.lower.nodes import Constants, Nodes, rewritten


@dataclass(frozen=True)
class Geometry:
    """One depthwise convolution: x [n, c, h, w], filter [c, 1, k, k], y [n, c, ho, wo], stride s, pads (top, left, bottom, right)."""

    n: int
    c: int
    h: int
    w: int
    k: int
    ho: int
    wo: int
    s: int
    pads: tuple[int, int, int, int]

    @property
    def dx_pads(self) -> list[int]:
        """Pads for dy (at stride 2 spread to 2 ho x 2 wo) so that the output is h x w."""
        begin = [self.k - 1 - self.pads[0], self.k - 1 - self.pads[1]]
        sizes = [(self.h, self.ho), (self.w, self.wo)]
        return begin + [size - self.s * out - first + self.k - 1 for (size, out), first in zip(sizes, begin)]

    @property
    def dw_pads(self) -> list[int]:
        """Pads for x so that a filter of ho x wo, dilated by the stride, gives k x k."""
        sizes = [(self.h, self.ho, self.pads[0]), (self.w, self.wo, self.pads[1])]
        return list(self.pads[:2]) + [self.k - size - first + (out - 1) * self.s for size, out, first in sizes]


def lower_depthwise(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with its depthwise Conv and ConvGrad on blocked kernels."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        geometry = _geometry(node, shapes, block)
        if geometry is None:
            return None
        write = _forward if node.op_type == "Conv" else _backward
        return write(node, geometry, constants, block)

    return rewritten(training, rewrite, constants)


def _forward(node: onnx.NodeProto, g: Geometry, constants: Constants, block: int) -> list[onnx.NodeProto]:
    graph = _Depthwise(constants, f"{node.output[0]}/blocked", block)
    x, w = graph.reorder_input(node.input[0]), graph.filter(node.input[1], g)
    y = graph.conv([x, w, *node.input[2:3]], g.c, (g.k, g.k), list(g.pads), (g.s, g.s))
    graph.reorder_output(y, g.c, node.output[0])
    return graph.nodes


def _backward(node: onnx.NodeProto, g: Geometry, constants: Constants, block: int) -> list[onnx.NodeProto]:
    dy, x, w = node.input
    dx, dw, db = (list(node.output) + ["", "", ""])[:3]
    graph = _Depthwise(constants, f"{dw or dx}/blocked", block)
    blocked_dy = graph.reorder_input(dy)
    if dx:
        graph.reorder_output(graph.input_gradient(blocked_dy, w, g), g.c, dx)
    if dw:
        graph.filter_gradient(graph.reorder_input(x), blocked_dy, g, dw)
    if db:
        graph.bias_gradient(blocked_dy, g.n, g.c, g.ho * g.wo, db)
    return graph.nodes


def _geometry(node: onnx.NodeProto, shapes: dict[str, list[int]], block: int) -> Geometry | None:
    if node.op_type == "Conv" and node.domain == "":
        x, w = (shapes.get(name) for name in node.input[:2])
    elif node.op_type == "ConvGrad":
        x, w = (shapes.get(name) for name in node.input[1:3])
    else:
        return None
    if not x or not w or len(x) != 4 or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    n, c, h, width = x
    if not (attribute(node, "group", 1) == c == w[0] and w[1] == 1 and w[2] == w[3] and c % block == 0):
        return None
    if strides not in ([1, 1], [2, 2]) or list(dilations) != [1, 1]:
        return None
    pads, k, s = tuple(attribute(node, "pads", [0] * 4)), w[2], strides[0]
    ho, wo = (h + pads[0] + pads[2] - k) // s + 1, (width + pads[1] + pads[3] - k) // s + 1
    geometry = Geometry(n, c, h, width, k, ho, wo, s, pads)
    return geometry if min(geometry.dx_pads + geometry.dw_pads) >= 0 else None


class _Depthwise(Nodes):
    """The three results of one depthwise convolution."""

    def filter(self, w: str, g: Geometry, turned: bool = False) -> str:
        """[c, 1, k, k] as a blocked filter, for dx turned by 180 degrees: tiny."""
        blocks = self("Transpose", self.reshape(w, [g.c // self.block, self.block, g.k**2]), perm=[0, 2, 1])
        if turned:
            blocks = self("Gather", blocks, self.constant(range(g.k**2)[::-1]), axis=1)
        return self.reshape(blocks, [g.c, 1, g.k, g.k])

    def input_gradient(self, dy: str, w: str, g: Geometry) -> str:
        """Blocked dx [n, c, h, w] from blocked dy."""
        spread = dy if g.s == 1 else self.spread(dy, g)
        return self.conv([spread, self.filter(w, g, turned=True)], g.c, (g.k, g.k), g.dx_pads)

    def spread(self, dy: str, g: Geometry) -> str:
        """Blocked [n, c, 2 ho, 2 wo] with dy at the even places and zeros between."""
        rows = self.reshape(dy, [g.n * g.c // self.block * g.ho, 1, g.wo, self.block])
        padded = self("Pad", rows, self.constant([0, 0, 0, 0, 0, 1, 0, self.block]))
        return self.reshape(padded, [g.n, g.c, 2 * g.ho, 2 * g.wo])

    def filter_gradient(self, x: str, dy: str, g: Geometry, to: str) -> None:
        """dw [c, 1, k, k] from blocked x and dy; neither is copied, only looked at with another shape."""
        channels, block = g.n * g.c, self.block
        image = self.reshape(x, [1, channels, g.h, g.w])
        kernel = self.reshape(dy, [channels, 1, g.ho, g.wo])
        products = self.conv([image, kernel], channels, (g.ho, g.wo), g.dw_pads, dilations=(g.s, g.s))
        sums = self("ReduceSum", self.reshape(products, [g.n, g.c // block, g.k**2, block]), self.constant([0]), keepdims=0)
        self.reshape(self("Transpose", sums, perm=[0, 2, 1]), [g.c, 1, g.k, g.k], to)
