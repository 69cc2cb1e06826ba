"""The input gradient of a dense convolution at stride 2, in four convolutions of dy: one for each parity of row and column.

    y[h] = sum over a of x[s h + a - pad] w[a]        so        dx[s t + r] = sum over m of dy[t + c - m] w[first + s m]

    first = (r + pad) mod s,  c = (r + pad) // s:    a pixel of parity r meets every s-th tap, starting with `first`

Together they multiply as often as the forward convolution does; the runtime's ConvGrad makes a column matrix and adds it up,
and one convolution over dy spread with zeros multiplies four times as often. The parts are put side by side, block by block.

It does not fire for odd sizes, kernels with a parity of no taps (1x1), wide or narrow pads that make a part's own pads negative,
or channels that do not fill blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.lower.dense import Dense, Geometry, geometry, without_dx
from onnx_distill.lower.nodes import Constants, rewritten


@dataclass(frozen=True)
class _Part:
    """Along one axis, for the pixels of one parity: the taps that they meet, and the pads of dy."""

    taps: range
    begin: int
    end: int

    @staticmethod
    def of(parity: int, kernel: int, pad: int, stride: int, size: int, outputs: int) -> _Part:
        taps = range((parity + pad) % stride, kernel, stride)
        begin = len(taps) - 1 - (parity + pad) // stride
        return _Part(taps, begin, size // stride + len(taps) - 1 - outputs - begin)

    @property
    def works(self) -> bool:
        return len(self.taps) > 0 and min(self.begin, self.end) >= 0


def lower_strided(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with dx of dense convolutions at stride 2 in four parts."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        g = geometry(node, shapes) if node.op_type == "ConvGrad" and node.output[0] else None
        if g is None or g.strides != (2, 2) or g.i % block or g.o % block:
            return None
        n, _, height, width = shapes[node.input[1]]
        parts = _parts(g, (height, width))
        if parts is None:
            return None
        graph = _Strided(constants, f"{node.output[0]}/strided", block)
        graph.write(node, g, n, (height, width), *parts)
        return [*graph.nodes, *without_dx(node)]

    return rewritten(training, rewrite, constants)


def _parts(g: Geometry, size: tuple[int, int]) -> tuple[list[_Part], list[_Part]] | None:
    """The two parts along height and those along width, or None where they do not cover dx."""
    outputs = g.output_size(size)
    if any(length % 2 for length in size) or min(outputs) < 1:
        return None
    rows, columns = (
        [_Part.of(r, g.kernel[axis], g.pads[axis], 2, size[axis], outputs[axis]) for r in range(2)] for axis in (0, 1)
    )
    return (rows, columns) if all(part.works for part in rows + columns) else None


class _Strided(Dense):
    def write(self, node, g: Geometry, n: int, size: tuple[int, int], rows: list[_Part], columns: list[_Part]) -> None:
        dy, w = self.reorder_input(node.input[0]), node.input[2]
        made = [[self._part(dy, w, g, row, column) for column in columns] for row in rows]
        lines, (height, width) = n * g.i // self.block * (size[0] // 2), size
        sides = [
            self("Concat", *(self.reshape(part, [lines * width // 2, self.block]) for part in pair), axis=1) for pair in made
        ]
        whole = self("Concat", *(self.reshape(side, [lines, width * self.block]) for side in sides), axis=1)
        self.reorder_output(self.reshape(whole, [n, g.i, height, width]), g.i, node.output[0])

    def _part(self, dy: str, w: str, g: Geometry, row: _Part, column: _Part) -> str:
        """Blocked [n, i, height / 2, width / 2]."""
        turned = self.turned_filter(w, g, row.taps, column.taps)
        pads = [row.begin, column.begin, row.end, column.end]
        return self.conv([dy, turned], 1, (len(row.taps), len(column.taps)), pads)
