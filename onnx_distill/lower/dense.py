"""Dense convolutions of a training model on the blocked-layout kernels, and their input gradient as a convolution.

    y  = Conv(x, w)                                                    as it stands, on blocked values
    dx = Conv(dy, w with its two channel axes swapped and turned)      at stride 1
    dw                                                                 stays ConvGrad's: a matrix product over all pixels

The runtime's ConvGrad makes dx by a matrix product and col2im, 2 to 3 times slower than the convolution (docs/performance.md).
It does not fire for groups, dilations or unknown shapes; blocked kernels want channels that fill blocks (or, forward, fewer
channels than a block on the input side, an image); without them dx is a plain Conv where the kernel is 1x1.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.nodes import Constants, Nodes, rewritten


@dataclass(frozen=True)
class Geometry:
    """One convolution: x [n, i, h, w], filter [o, i, kh, kw], y [n, o, ...]."""

    i: int
    o: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    @property
    def dx_pads(self) -> list[int]:
        kh, kw = self.kernel
        return [k - 1 - pad for k, pad in zip((kh, kw, kh, kw), self.pads)]

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of y for an x of `size`."""
        ends = zip(size, self.pads, self.pads[2:], self.kernel, self.strides)
        height, width = ((n + before + after - k) // s + 1 for n, before, after, k, s in ends)
        return height, width

    @property
    def dx_is_a_convolution(self) -> bool:
        return self.strides == (1, 1) and min(self.dx_pads) >= 0


def lower_dense(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int | None) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with its dense convolutions on faster kernels."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes)
        if g is None:
            return None
        return _forward(node, g, constants, block) if node.op_type == "Conv" else _backward(node, g, constants, block)

    return rewritten(training, rewrite, constants)


def geometry(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> Geometry | None:
    """Of a dense two-dimensional Conv or ConvGrad; None for other nodes, and where a shape is not known."""
    if node.op_type == "Conv" and node.domain == "":
        x, w = (shapes.get(name) for name in node.input[:2])
    elif node.op_type == "ConvGrad":
        x, w = (shapes.get(name) for name in node.input[1:3])
    else:
        return None
    if not x or not w or len(x) != 4 or attribute(node, "group", 1) != 1:
        return None
    if attribute(node, "auto_pad", b"NOTSET") != b"NOTSET" or list(attribute(node, "dilations", [1, 1])) != [1, 1]:
        return None
    strides, pads = tuple(attribute(node, "strides", [1, 1])), tuple(attribute(node, "pads", [0] * 4))
    return Geometry(w[1], w[0], (w[2], w[3]), strides, pads)


def _forward(node: onnx.NodeProto, g: Geometry, constants: Constants, block: int | None) -> list[onnx.NodeProto] | None:
    if not block or g.o % block or (g.i % block and g.i > block):
        return None
    graph = Dense(constants, f"{node.output[0]}/blocked", block)
    is_image = g.i < block
    x = node.input[0] if is_image else graph.reorder_input(node.input[0])
    w = graph.image_filter(node.input[1], g) if is_image else graph.filter(node.input[1], g)
    y = graph.conv([x, w, *node.input[2:3]], 1, g.kernel, list(g.pads), g.strides)
    graph.reorder_output(y, g.o, node.output[0])
    return graph.nodes


def _backward(node: onnx.NodeProto, g: Geometry, constants: Constants, block: int | None) -> list[onnx.NodeProto] | None:
    dy, x, w = node.input
    dx = node.output[0]
    blocked = block and g.o % block == 0 and g.i % block == 0
    if not dx or not g.dx_is_a_convolution or not (blocked or g.kernel == (1, 1)):
        return None
    graph = Dense(constants, f"{dx}/dense", block or 0)
    if blocked:
        y = graph.conv([graph.reorder_input(dy), graph.turned_filter(w, g)], 1, g.kernel, g.dx_pads)
        graph.reorder_output(y, g.i, dx)
    else:
        graph("Conv", dy, graph("Transpose", w, perm=[1, 0, 2, 3]), to=dx, kernel_shape=[1, 1], pads=g.dx_pads)
    graph.nodes += without_dx(node)
    return graph.nodes


def without_dx(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What a ConvGrad still has to give when dx comes from elsewhere: a node for dw and db, or none."""
    parameters = list(node.output[1:])
    if not any(parameters):
        return []
    rest = onnx.NodeProto.FromString(node.SerializeToString())
    rest.output[:], rest.name = ["", *parameters], f"{node.name}/dw"
    return [rest]


class Dense(Nodes):
    """Filters of dense convolutions in the kernels' order, made anew in each step: small beside the activations."""

    def filter(self, w: str, g: Geometry) -> str:
        """[o, i, kh, kw] as [o / b, i / b, kh, kw, b of i, b of o]; in two steps that each move one axis, which the runtime
        does 7 times faster than any order of all axes at once."""
        b, taps = self.block, g.kernel[0] * g.kernel[1]
        inner = w if taps == 1 else self("Transpose", self.reshape(w, [g.o * g.i // b, b, taps]), perm=[0, 2, 1])
        outer = self("Transpose", self.reshape(inner, [g.o // b, b, g.i * taps]), perm=[0, 2, 1])
        return self.reshape(outer, [g.o, g.i, *g.kernel])

    def turned_filter(self, w: str, g: Geometry, rows: range | None = None, columns: range | None = None) -> str:
        """The filter of dx: [i / b, o / b, kh, kw, b of o, b of i], each kernel turned by 180 degrees.

        rows, columns: the taps to take, if not all.
        """
        b, (kh, kw) = self.block, g.kernel
        if g.kernel == (1, 1):  # w is an image of o pixels and i channels, the channels last
            pixels = self.reshape(w, [1, g.o, 1, g.i])
            return self.reshape(self("ReorderInput", pixels, domain=DOMAIN, channels_last=1), [g.i, g.o, 1, 1])
        rows, columns = rows or range(kh), columns or range(kw)
        taps = [row * kw + column for row in rows[::-1] for column in columns[::-1]]
        blocks = self.reshape(self.filter(w, g), [g.o // b, g.i // b, kh * kw, b * b])
        chosen = self("Gather", blocks, self.constant(taps), axis=2)
        swapped = self("Transpose", chosen, perm=[1, 0, 2, 3])
        turned = self("Transpose", self.reshape(swapped, [g.o * g.i * len(taps) // (b * b), b, b]), perm=[0, 2, 1])
        return self.reshape(turned, [g.i, g.o, len(rows), len(columns)])

    def image_filter(self, w: str, g: Geometry) -> str:
        """[o / b, i, kh, kw, b of o], for an input that is not blocked."""
        parts = self.reshape(w, [g.o // self.block, self.block, g.i, *g.kernel])
        return self.reshape(self("Transpose", parts, perm=[0, 2, 3, 4, 1]), [g.o, g.i, *g.kernel])
