"""The gradient of a 1x1 convolution's filter as a blocked convolution whose input channels are pixels.

    dw[o, i] = sum over images n and pixels p of  dy[n, o, p] * x[n, i, p]

is a 1x1 convolution of an "image" of one row, i pixels wide, with a channel for each p, and one group for each n. Its filter
[n * o, p, 1, 1] in the kernels' order lies in memory as dy does, blocked: [n, o / b, p, b of o]. So the wider of dy and x is read
where it is, the narrower one is turned into channels-last order and blocked again along its pixels. ConvGrad wants both plain,
and makes a small matrix product for each image: 33 ms against 25 for MobileNetV2's at 28x28 and above (docs/experiments.md).

It fires for dw of dense 1x1 convolutions at stride 1 where channels and pixels of an image fill blocks and the pixels are many;
not where dx is asked of the same node (dense.py has made another one for it).
"""

from __future__ import annotations

import onnx

from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.dense import Geometry, geometry
from onnx_distill.lower.nodes import Constants, Nodes, rewritten

LEAST_PIXELS = 256  # of an image


def lower_pixels(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with dw of 1x1 convolutions as convolutions over pixels."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes) if node.op_type == "ConvGrad" else None
        dx, dw, db = (list(node.output) + ["", "", ""])[:3]
        if g is None or dx or not dw or (g.kernel, g.strides, any(g.pads)) != ((1, 1), (1, 1), False):
            return None
        n, _, height, width = shapes[node.input[1]]
        pixels = height * width
        if pixels < LEAST_PIXELS or any(count % block for count in (pixels, g.o, g.i)):
            return None
        graph = _Pixels(constants, f"{dw}/pixels", block)
        graph.filter_gradient(node.input[0], node.input[1], g, n, pixels, dw)
        if db:
            graph.bias_gradient(graph.reorder_input(node.input[0]), n, g.o, pixels, db)
        return graph.nodes

    return rewritten(training, rewrite, constants)


class _Pixels(Nodes):
    def filter_gradient(self, dy: str, x: str, g: Geometry, n: int, pixels: int, to: str) -> None:
        """dw [o, i, 1, 1]."""
        (wide, channels), (narrow, columns) = sorted(((dy, g.o), (x, g.i)), key=lambda each: -each[1])
        last = self("ReorderOutput", self.reorder_input(narrow), domain=DOMAIN, channels=columns, channels_last=1)
        row = self.reorder_input(self.reshape(last, [1, n * pixels, 1, columns]))
        kernels = self.reshape(self.reorder_input(wide), [n * channels, pixels, 1, 1])
        products = self.reshape(
            self.conv([row, kernels], n, (1, 1), [0] * 4), [n, channels // self.block, columns, self.block]
        )
        sums = self("ReduceSum", products, self.constant([0]), keepdims=0)
        matrix = self.reshape(self("Transpose", sums, perm=[0, 2, 1]), [channels, columns])
        self.reshape(matrix if wide == dy else self("Transpose", matrix, perm=[1, 0]), [g.o, g.i, 1, 1], to)
