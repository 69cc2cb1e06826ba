"""A Relu or Clip moves in front of the layout operators and MaxPools that it stands behind, to where a quantizer absorbs it.

    Conv -> MaxPool -> Relu   becomes   Conv -> Relu -> MaxPool

Both are the same: they take values as they are, or the largest of them, and a bound keeps the order. Otherwise the pool would
compute on floats, and its input be quantized over negative values that nobody reads.

Not where something else reads what lies between, or where a bound is computed.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.graph import Graph
from onnx_distill.placement.table import PASSING, role_of

OPS = ("Relu", "Clip")


def find(node: onnx.NodeProto, graph: Graph) -> tuple[onnx.NodeProto, ...] | None:
    """The layout operators in front, the nearest first."""
    if not all(graph.is_constant(name) for name in node.input[1:] if name):
        return None
    found: list[onnx.NodeProto] = []
    reader, value = node, node.input[0]
    while (maker := _movable(value, reader, graph)) is not None:
        found.append(maker)
        reader, value = maker, maker.input[0]
    return tuple(found) if found else None


def _movable(value: str, reader: onnx.NodeProto, graph: Graph) -> onnx.NodeProto | None:
    maker = graph.producer(value)
    if maker is None or graph.only_reader(value) is not reader or len([name for name in maker.output if name]) > 1:
        return None
    return maker if role_of(maker, {}) == PASSING and graph.only_reader(maker.input[0]) is maker else None


def rewrite(node: onnx.NodeProto, *rest) -> None:
    *movers, graph = rest
    first = movers[-1]
    bound = graph.changed(node, [first.input[0], *node.input[1:]])
    bound.output[0] = graph.fresh(f"{node.output[0]}/before")
    ends = {movers[0].output[0]: node.output[0], first.input[0]: bound.output[0]}
    graph.replace(node, [])
    for mover in movers:
        moved = graph.changed(mover, [ends.get(mover.input[0], mover.input[0]), *mover.input[1:]])
        moved.output[0] = ends.get(mover.output[0], mover.output[0])
        graph.replace(mover, [bound, moved] if mover is first else [moved])
