"""A Slice that runs backwards (RGB to BGR, a flip) becomes a Gather along each such axis: its gradient fails in the runtime.

Must not fire on steps forward, where an end or a step is computed in the graph, or where the size along such an axis is free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Slice",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    parts = _parts(node, graph)
    backwards = [part for part in parts or () if part[3] < 0]
    sizes = graph.sizes(node.input[0], [part[0] for part in backwards])
    if not backwards or sizes is None:
        return None
    forwards = [part for part in parts or () if part[3] > 0]
    nodes, value = [], node.input[0]
    if forwards:
        ends = [graph.add_constant(np.array(column, np.int64), f"{node.output[0]}/ends") for column in zip(*forwards)]
        nodes.append(graph.node("Slice", [value, ends[1], ends[2], ends[0], ends[3]], node))
        value = nodes[-1].output[0]
    for (axis, start, end, step), size in zip(backwards, sizes):
        index = graph.add_constant(np.arange(size)[_numpy_slice(start, end, step, size)], f"{node.output[0]}/from")
        nodes.append(graph.node("Gather", [value, index], node, axis=axis))
        value = nodes[-1].output[0]
    nodes[-1].output[0] = node.output[0]
    return nodes


def _parts(node: onnx.NodeProto, graph: Graph) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of every axis that is sliced; None where one of them is not constant."""
    given: list[Any] = [graph.constant(name) if name else None for name in [*node.input[1:], "", ""][:4]]
    if given[0] is None or any(name and values is None for name, values in zip(node.input[1:], given)):
        return None
    count = len(given[0])
    axes = np.arange(count) if given[2] is None else given[2]
    steps = np.ones(count, np.int64) if given[3] is None else given[3]
    return list(zip(axes.tolist(), given[0].tolist(), given[1].tolist(), steps.tolist()))


def _numpy_slice(start: int, end: int, step: int, size: int) -> slice:
    """ONNX clamps an end before the start of the axis to just before it; numpy would count it from the back."""
    last = end + size if end < 0 else end
    return slice(start, None if last < 0 else last, step)
