"""Convolutions of images so small that their kernels mostly meet padding, forward and dx, as products of taps.

    y[pixels]  = sum over taps of  x[their neighbours] w[tap]            dx[neighbours] = sum over taps of  dy[pixels] w[tap]^T

Pixels whose neighbour at a tap is padding are left out: with 3x3 taps on 2x2 images 4 products of 9 are left, while a kernel of
blocked values still reads all nine taps, and wants the filter in another order for dx. dw is that of taps.py.

It fires where at most half of the products are left, the filter is large (taps.LEAST_PRODUCTS) and channels fill blocks; not at
strides, for groups or dilations, for unknown shapes, or where a tap sees no pixel at all.
"""

from __future__ import annotations

import onnx

from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.dense import Geometry, geometry, without_dx
from onnx_distill.lower.nodes import Constants, rewritten
from onnx_distill.lower.taps import LEAST_PRODUCTS, Products, Span, spans

MOST_PRODUCTS = 0.5  # of those that padding would have: 2x2 images gain, 4x4 images (0.69) do not


def lower_small_images(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with convolutions of tiny images as products of taps."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes)
        if g is None or g.strides != (1, 1) or g.i % block or g.o % block or g.o * g.i < LEAST_PRODUCTS:
            return None
        backward = node.op_type == "ConvGrad"
        n, _, height, width = shapes[node.input[1 if backward else 0]]
        taps, outputs = spans(g, (height, width)), g.output_size((height, width))
        left = sum((row.end - row.begin) * (column.end - column.begin) for row, column in taps)
        if not taps or left > MOST_PRODUCTS * len(taps) * outputs[0] * outputs[1] or (backward and not node.output[0]):
            return None
        graph = _SmallImages(constants, f"{node.output[0]}/small", block)
        if backward:
            graph.input_gradient(node, g, n, taps, (height, width))
            return [*graph.nodes, *without_dx(node)]
        graph.forward(node, g, n, taps, outputs)
        return graph.nodes

    return rewritten(training, rewrite, constants)


class _SmallImages(Products):
    def forward(self, node, g: Geometry, n: int, taps: list[tuple[Span, Span]], size: tuple[int, int]) -> None:
        x, filters = self.channels_last(node.input[0], g.i), self._filters(node.input[1], g)
        parts = []
        for tap, pair in enumerate(taps):
            product = self("Gemm", self.pixels_of_x(x, g, pair), self._filter(filters, tap))
            begins, ends = [span.begin for span in pair], [span.end for span in pair]
            parts.append(self._placed(product, n, g.o, begins, ends, size))
        y = self("Sum", *parts)
        if len(node.input) > 2 and node.input[2]:
            y = self("Add", y, node.input[2])
        self._to_channels_first(y, g.o, node.output[0])

    def input_gradient(self, node, g: Geometry, n: int, taps: list[tuple[Span, Span]], size: tuple[int, int]) -> None:
        dy, filters = self.channels_last(node.input[0], g.o), self._filters(node.input[2], g)
        parts = []
        for tap, pair in enumerate(taps):
            product = self("Gemm", self.pixels_of_dy(dy, g, pair), self._filter(filters, tap), transB=1)
            begins, ends = [span.x_begin for span in pair], [span.x_end for span in pair]
            parts.append(self._placed(product, n, g.i, begins, ends, size))
        self._to_channels_first(self("Sum", *parts), g.i, node.output[0])

    def _filters(self, w: str, g: Geometry) -> str:
        """[o, i, kh, kw] as [taps, i, o], in two steps that each move one axis."""
        taps = g.kernel[0] * g.kernel[1]
        turned = self("Transpose", self.reshape(w, [g.o, g.i * taps]), perm=[1, 0])
        return self("Transpose", self.reshape(turned, [g.i, taps, g.o]), perm=[1, 0, 2])

    def _filter(self, filters: str, tap: int) -> str:
        return self("Gather", filters, self.constant(tap), axis=0)

    def _placed(self, product: str, n: int, channels: int, begins: list[int], ends: list[int], size: tuple[int, int]) -> str:
        """[n, *size, channels]: the product's pixels from begins to ends, zeros around them."""
        image = self.reshape(product, [n, *(end - begin for begin, end in zip(begins, ends)), channels])
        before, after = begins, [length - end for length, end in zip(size, ends)]
        return self("Pad", image, self.constant([0, *before, 0, 0, *after, 0])) if any(before + after) else image

    def _to_channels_first(self, value: str, channels: int, to: str) -> None:
        blocked = self("ReorderInput", value, domain=DOMAIN, channels_last=1)
        self.reorder_output(blocked, channels, to)
