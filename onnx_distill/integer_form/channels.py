"""Which channels of which values carry one common factor: what a factor for each channel may move through without changing a result.

A factor above 0 passes every operator that takes channels one by one and is positively homogeneous, f(c x) = c f(x): Relu, LeakyRelu,
PRelu, pools, sums, zero padding, layout. It ends at layers with constants, which take it into their weights: Conv, Gemm, MatMul
and a Mul by constants. Where it meets anything else (Clip, Sigmoid, HardSwish, Softmax, a graph output), its channels are held.
"""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import onnx

from onnx_distill.lookup import attribute, read_by
from onnx_distill.normalize.graph import Graph
from onnx_distill.placement.table import weight_axis

LAYERS = frozenset(["Conv", "Gemm", "MatMul"])


class Channels:
    """of: value -> a number for each of its channels, equal where channels share a factor; values that have no factor are not in it.

    layers: those with a factor on either side, each (node, what it reads or '', what it makes or ''). offsets: Adds of constants.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.axis: dict[str, int] = {}
        self._ids: dict[str, np.ndarray] = {}
        self._parents: list[int] = []
        self._held: set[int] = set()
        self._layers: list[tuple[onnx.NodeProto, str, str]] = []
        self._offsets: list[onnx.NodeProto] = []
        for node in graph.nodes:
            rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if rule is None or not rule(self, node):
                self._hold(*read_by(node))
        self._hold(*graph.outputs)
        roots = self._free()
        self.count = len(self._parents)
        self.of = {value: found for value, found in roots.items() if not self._held.intersection(found.tolist())}
        known = lambda value: value if value in self.of else ""  # noqa: E731
        layers = [(node, known(reads), known(makes)) for node, reads, makes in self._layers]
        self.layers = [layer for layer in layers if layer[1] or layer[2]]
        self.offsets = [node for node in self._offsets if node.output[0] in self.of]

    def _free(self) -> dict[str, np.ndarray]:
        """Value -> its channels' roots; a value of which some channels are held is held as a whole, and so what it is joined with."""
        roots = {value: np.array([self._root(i) for i in ids.tolist()]) for value, ids in self._ids.items()}
        self._held, before = {self._root(i) for i in self._held}, -1
        while len(self._held) != before:
            before = len(self._held)
            for found in roots.values():
                if self._held.intersection(found.tolist()):
                    self._held.update(found.tolist())
        return roots

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = number = self._parents[self._parents[number]]
        return number

    def _hold(self, *values: str) -> None:
        for value in values:
            self._held.update(self._ids.get(value, np.array([], int)).tolist())

    def _give(self, value: str, ids: np.ndarray, axis: int) -> bool:
        self._ids[value], self.axis[value] = ids, axis
        return True

    def _make(self, value: str, count: int, axis: int) -> None:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        self._give(value, np.arange(start, start + count), axis)

    def layer(self, node: onnx.NodeProto) -> bool:
        """A Conv, Gemm or MatMul by weights of its own; factors of its inputs and outputs end here."""
        graph, weight, result = self.graph, node.input[1], node.output[0]
        tensor, rank = graph.tensor(weight), graph.rank(result)
        if graph.only_reader(weight) is not node or tensor is None or rank is None:
            return False
        shape = list(tensor.dims)
        if (
            graph.dtype(weight) != onnx.TensorProto.FLOAT
            or not _plain(node, graph)
            or (node.op_type == "MatMul" and len(shape) != 2)
        ):
            return False
        axis = 1 if node.op_type == "Conv" else rank - 1
        reads = node.input[0] if self.axis.get(node.input[0]) == axis else ""
        self._hold(*([] if reads else node.input))
        self._make(result, shape[weight_axis(node, len(shape)) or 0], axis)
        self._layers.append((node, reads, result))
        return True

    def same(self, node: onnx.NodeProto) -> bool:
        """Each channel of the result is made from the same channel of the first input."""
        value = node.input[0]
        return value in self._ids and self._give(node.output[0], self._ids[value], self.axis[value])

    def pooled(self, node: onnx.NodeProto) -> bool:
        return self.axis.get(node.input[0]) == 1 and self.same(node)

    def prelu(self, node: onnx.NodeProto) -> bool:
        return self.graph.is_constant(node.input[1]) and self.same(node)

    def pad(self, node: onnx.NodeProto) -> bool:
        """Zeros, and none beside the channels."""
        pads, filled = self.graph.constant(node.input[1]), node.input[2] if len(node.input) > 2 else ""
        axis, listed = self.axis.get(node.input[0]), len(node.input) > 3 and node.input[3]
        if attribute(node, "mode", b"constant") != b"constant" or pads is None or axis is None or listed:
            return False
        beside = pads.reshape(2, -1)[:, axis]
        return not beside.any() and (not filled or self.graph.scalar(filled) == 0) and self.same(node)

    def transposed(self, node: onnx.NodeProto) -> bool:
        order, axis = attribute(node, "perm"), self.axis.get(node.input[0])
        return bool(order) and axis is not None and self._give(node.output[0], self._ids[node.input[0]], order.index(axis))

    def reshaped(self, node: onnx.NodeProto) -> bool:
        """Row-major order keeps channels together where their axis stays the first behind the batch; one may become several."""
        old, new = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        if self.axis.get(node.input[0]) != 1 or old is None or new is None or len(new) < 2:
            return False
        sizes = [[size for size in shape[1:] if isinstance(size, int)] for shape in (old, new)]
        fixed = len(sizes[0]) == len(old) - 1 and len(sizes[1]) == len(new) - 1
        if not fixed or math.prod(sizes[0]) != math.prod(sizes[1]) or sizes[1][0] % sizes[0][0]:
            return False
        return self._give(node.output[0], np.repeat(self._ids[node.input[0]], sizes[1][0] // sizes[0][0]), 1)

    def added(self, node: onnx.NodeProto) -> bool:
        """Channels that are summed share a factor; constants for each channel take it in."""
        free = [name for name in node.input if name in self._ids]
        if len(free) == 2:
            return self._join(node, *free)
        constants = [name for name in node.input if self.graph.is_constant(name)]
        if len(free) != 1 or len(constants) != 1 or not self._along_channels(constants[0], free[0]):
            return False
        self._offsets.append(node)
        return self._give(node.output[0], self._ids[free[0]], self.axis[free[0]])

    def _join(self, node: onnx.NodeProto, one: str, other: str) -> bool:
        if self.axis[one] != self.axis[other] or self.graph.shape(one) != self.graph.shape(other):
            return False
        for a, b in zip(self._ids[one].tolist(), self._ids[other].tolist()):
            self._parents[self._root(a)] = self._root(b)
        return self._give(node.output[0], self._ids[one], self.axis[one])

    def multiplied(self, node: onnx.NodeProto) -> bool:
        """A gate without a factor lets one pass; constants for each channel are a layer."""
        free = [name for name in node.input if name in self._ids]
        if len(free) != 1 or self.graph.shape(free[0]) != self.graph.shape(node.output[0]):
            return False
        (other,) = [name for name in node.input if name != free[0]] or [""]
        return bool(other) and self._give(node.output[0], self._ids[free[0]], self.axis[free[0]])

    def joined(self, node: onnx.NodeProto) -> bool:
        """Channels side by side."""
        axes = {self.axis.get(name) for name in node.input}
        rank = self.graph.rank(node.output[0])
        if None in axes or len(axes) != 1 or rank is None or attribute(node, "axis") % rank not in axes:
            return False
        return self._give(node.output[0], np.concatenate([self._ids[name] for name in node.input]), axes.pop() or 0)

    def _along_channels(self, constant: str, value: str) -> bool:
        """Whether the constant is one number, or one for each channel."""
        shape, of, axis = self.graph.shape(constant), self.graph.shape(value), self.axis[value]
        if shape is None or of is None or len(shape) > len(of) or not isinstance(of[axis], int):
            return False
        padded = [1] * (len(of) - len(shape)) + list(shape)
        return all(size == 1 or (place == axis and size == of[axis]) for place, size in enumerate(padded))


def _plain(node: onnx.NodeProto, graph: Graph) -> bool:
    """The bias is a constant, one value or one a channel; a Gemm transposes nothing that it reads."""
    bias = node.input[2] if len(node.input) > 2 else ""
    shape = graph.shape(node.input[1]) or ()
    sizes = (1, shape[weight_axis(node, len(shape)) or 0]) if len(shape) > 1 else ()
    return not attribute(node, "transA", 0) and (
        not bias or (graph.is_constant(bias) and math.prod(graph.shape(bias) or (0,)) in sizes)
    )


RULES: dict[str, Callable[[Channels, onnx.NodeProto], bool]] = {
    **dict.fromkeys(LAYERS, Channels.layer),
    **dict.fromkeys(("Relu", "LeakyRelu", "Identity"), Channels.same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), Channels.pooled),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), Channels.reshaped),
    "PRelu": Channels.prelu,
    "Pad": Channels.pad,
    "Transpose": Channels.transposed,
    "Add": Channels.added,
    "Mul": Channels.multiplied,
    "Concat": Channels.joined,
}
