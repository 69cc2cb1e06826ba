"""Convolutions that see their whole input at once, such as a classifier behind a global pool, as matrix products.

    y = x w^T + b        dx = dy w        dw = dy^T x        db = sum of dy over images        x [n, i kh kw], w [o, i kh kw]

As convolutions each image multiplies all of w, forward and dx, and reads and writes all of dw; dx has w transposed before. For 8
images and a filter of 1001x1280 the three take 2.6 ms, as products 0.8. Sums in another order.

It does not fire for groups, pads, dilations, unknown shapes, or where the kernel is smaller than the image.
"""

from __future__ import annotations

import onnx

from onnx_distill.lower.dense import Geometry, geometry
from onnx_distill.lower.nodes import Constants, Nodes, rewritten


def lower_single_pixels(training: onnx.ModelProto, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with convolutions of whole images as products."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes)
        if g is None or any(g.pads):
            return None
        backward = node.op_type == "ConvGrad"
        x = shapes[node.input[1 if backward else 0]]
        if tuple(x[2:]) != g.kernel:
            return None
        base = next(name for name in node.output if name)
        graph = _Products(constants, f"{base}/product")
        (graph.backward if backward else graph.forward)(node, g, x)
        return graph.nodes

    return rewritten(training, rewrite, constants)


class _Products(Nodes):
    def forward(self, node: onnx.NodeProto, g: Geometry, x: list[int]) -> None:
        rows, filters = self._rows(node.input[0], x[0]), self._rows(node.input[1], g.o)
        self.reshape(self("Gemm", rows, filters, *node.input[2:3], transB=1), [x[0], g.o, 1, 1], node.output[0])

    def backward(self, node: onnx.NodeProto, g: Geometry, x: list[int]) -> None:
        dx, dw, db = (list(node.output) + ["", "", ""])[:3]
        dy = self.reshape(node.input[0], [x[0], g.o])
        if dx:
            self.reshape(self("Gemm", dy, self._rows(node.input[2], g.o)), x, dx)
        if dw:
            self.reshape(self("Gemm", dy, self._rows(node.input[1], x[0]), transA=1), [g.o, g.i, *g.kernel], dw)
        if db:
            self("ReduceSum", dy, self.constant([0]), to=db, keepdims=0)

    def _rows(self, value: str, count: int) -> str:
        return self.reshape(value, [count, -1])
