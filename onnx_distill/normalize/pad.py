"""A Pad names all axes in its pads (their gradient goes by that), and one that repeats pixels becomes a Gather along each axis.

reflect, edge and wrap have no gradient in the runtime; that of a Gather sums what each pixel was copied to.

Must not fire where pads or axes are computed in the graph; for reflect, edge and wrap also where the size along a padded axis is
free, or a pad is negative or reaches round the image more than once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Pad",)
NUMPY_MODES: dict[bytes, Literal["reflect", "edge", "wrap"]] = {b"reflect": "reflect", b"edge": "edge", b"wrap": "wrap"}


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    pads = full_pads(node, graph)
    if pads is None:
        return None
    if attribute(node, "mode", b"constant") != b"constant":
        return _gathers(node, graph, pads)
    if len(node.input) < 4 or not node.input[3]:
        return None
    written = graph.add_constant(pads.reshape(-1), node.input[1])
    return [graph.changed(node, [node.input[0], written, *node.input[2:3]])]


def full_pads(node: onnx.NodeProto, graph: Graph) -> np.ndarray | None:
    """[2, rank]: pads at the begin and the end of every axis; None where they or the rank are not known."""
    pads, rank = graph.constant(node.input[1]), graph.rank(node.input[0])
    axes: np.ndarray | None = np.arange(rank or 0)
    if len(node.input) > 3 and node.input[3]:
        axes = graph.constant(node.input[3])
    if pads is None or axes is None or rank is None:
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, axes] = pads.reshape(2, -1)
    return full


def _gathers(node: onnx.NodeProto, graph: Graph, pads: np.ndarray) -> list[onnx.NodeProto] | None:
    axes = [axis for axis in range(pads.shape[1]) if pads[:, axis].any()]
    sizes = graph.sizes(node.input[0], axes)
    mode = NUMPY_MODES.get(attribute(node, "mode"))
    if not axes or sizes is None or mode is None or pads.min() < 0 or (pads[:, axes].max(axis=0) >= sizes).any():
        return None
    nodes, value = [], node.input[0]
    for axis, size in zip(axes, sizes):
        before, after = pads[:, axis].tolist()
        index = graph.add_constant(np.pad(np.arange(size), (before, after), mode), f"{node.output[0]}/from")
        nodes.append(graph.node("Gather", [value, index], node, node.output[0] if axis == axes[-1] else None, axis=axis))
        value = nodes[-1].output[0]
    return nodes
