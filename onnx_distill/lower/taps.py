"""The gradient of a dense convolution's filter as one matrix product for each tap of its kernel.

    dw[o, i, a, b] = sum over images and pixels of dy[n, o, h, w] * x[n, i, s h + a - pad, s w + b - pad]

For one tap (a, b) that is a product of two matrices of channels-last pixels, [pixels, o]^T [pixels, i]; only pixels whose
neighbour lies inside the image take part, so nothing is padded: in 4x4 images two thirds of the products are left.

The runtime's ConvGrad makes one product for each image instead, and reads and writes all of dw in each: well where an image
has many pixels and the filter is small, up to 3 times slower where it is the other way round (docs/experiments.md). So this
fires for images of few pixels and filters of many channels; not for groups, dilations, unknown shapes, or taps that see no pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.dense import Geometry, geometry
from onnx_distill.lower.nodes import Constants, Nodes, rewritten

MOST_PIXELS = 64  # of an image behind the convolution: 8x8 gains, 16x16 loses
LEAST_PRODUCTS = 128 * 128  # outer times inner channels: below, packing the operands costs more than multiplying them


def lower_taps(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int | None) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with dw of wide convolutions of small images as products."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes) if node.op_type == "ConvGrad" else None
        dx, dw, db = (list(node.output) + ["", "", ""])[:3]
        if g is None or dx or not dw or g.kernel == (1, 1) or g.o * g.i < LEAST_PRODUCTS:
            return None
        height, width = shapes[node.input[1]][2:]
        taps = spans(g, (height, width))
        outputs = g.output_size((height, width))
        if not taps or outputs[0] * outputs[1] > MOST_PIXELS:
            return None
        graph = Products(constants, f"{dw}/taps", block or 0)
        graph.filter_gradient(node.input[0], node.input[1], g, taps, dw, db)
        return graph.nodes

    return rewritten(training, rewrite, constants)


@dataclass(frozen=True)
class Span:
    """Along one axis, the pixels of dy whose neighbour at a tap lies inside the image, and those neighbours, as slices."""

    begin: int
    end: int
    x_begin: int
    x_end: int
    is_all_of_dy: bool
    is_all_of_x: bool

    @staticmethod
    def of(tap: int, pad: int, stride: int, size: int, outputs: int) -> Span:
        begin, end = max(0, -((tap - pad) // stride)), min(outputs, (size - 1 + pad - tap) // stride + 1)
        x_begin = begin * stride + tap - pad
        x_end = x_begin + (end - begin - 1) * stride + 1
        return Span(begin, end, x_begin, x_end, (begin, end) == (0, outputs), stride == 1 and (x_begin, x_end) == (0, size))


def spans(g: Geometry, size: tuple[int, int]) -> list[tuple[Span, Span]]:
    """The spans of each tap, along height and width, of an x of `size`; none where a tap sees no pixel."""
    outputs = g.output_size(size)
    rows, columns = (
        [Span.of(tap, g.pads[axis], g.strides[axis], size[axis], outputs[axis]) for tap in range(g.kernel[axis])]
        for axis in (0, 1)
    )
    empty = any(span.begin >= span.end for span in rows + columns)
    return [] if empty else [(row, column) for row in rows for column in columns]


class Products(Nodes):
    """Convolutions as products of channels-last pixels."""

    def filter_gradient(self, dy: str, x: str, g: Geometry, taps: list[tuple[Span, Span]], dw: str, db: str) -> None:
        left, right = self.channels_last(dy, g.o), self.channels_last(x, g.i)
        products = [
            self("Gemm", self.pixels_of_dy(left, g, pair), self.pixels_of_x(right, g, pair), transA=1) for pair in taps
        ]
        rows = self.reshape(self("Concat", *products, axis=0), [len(taps), g.o * g.i])
        self.reshape(self("Transpose", rows, perm=[1, 0]), [g.o, g.i, *g.kernel], dw)
        if db:
            self("ReduceSum", self.reshape(left, [-1, g.o]), self.constant([0]), to=db, keepdims=0)

    def channels_last(self, value: str, channels: int) -> str:
        if self.block and channels % self.block == 0:
            return self(
                "ReorderOutput", self.reorder_input(value), domain=DOMAIN, channels=channels, channels_last=1
            )  # the reorder in front goes where the value is blocked anyway
        return self("Transpose", value, perm=[0, 2, 3, 1])

    def pixels_of_dy(self, dy: str, g: Geometry, pair: tuple[Span, Span]) -> str:
        if not all(span.is_all_of_dy for span in pair):
            dy = self._slice(dy, [s.begin for s in pair], [s.end for s in pair], [1, 1])
        return self.reshape(dy, [-1, g.o])

    def pixels_of_x(self, x: str, g: Geometry, pair: tuple[Span, Span]) -> str:
        if not all(span.is_all_of_x for span in pair):
            x = self._slice(x, [s.x_begin for s in pair], [s.x_end for s in pair], list(g.strides))
        return self.reshape(x, [-1, g.i])

    def _slice(self, value: str, begins: list[int], ends: list[int], steps: list[int]) -> str:
        return self("Slice", value, *(self.constant(numbers) for numbers in (begins, ends, [1, 2], steps)))
