"""A node and a scaling of channels change places, so that the scaling comes nearer to a layer.

    Transpose                 the channels lie along another axis
    Pad                       it pads with what the scaling makes of its number, if that is one number for all channels
    Mul, Add, normalization   in front of the scaling, joins it

Must not fire on a Transpose without perm, on a Pad of channels or with numbers that are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.pad import full_pads
from onnx_distill.normalize.scaling import Scaling, scaling_of


@dataclass(frozen=True)
class Beyond:
    """What replaces the node, and the scaling and the value on its other side."""

    nodes: list[onnx.NodeProto]
    scaling: Scaling
    value: str


def across(node: onnx.NodeProto, scaling: Scaling, graph: Graph, backwards: bool) -> Beyond | None:
    """`backwards`: the scaling came behind the node and is to come in front. None where they cannot change places."""
    value = node.input[0] if backwards else node.output[0]
    if node.op_type == "Transpose" and attribute(node, "perm") is not None:
        return Beyond([graph.changed(node)], _turned(list(attribute(node, "perm")), scaling, backwards), value)
    if node.op_type == "Pad":
        made = _padded(node, scaling, graph, backwards)
        return None if made is None else Beyond([made], scaling, value)
    return _joined(node, scaling, graph) if backwards else None


def _turned(perm: list[int], scaling: Scaling, backwards: bool) -> Scaling:
    if scaling.axis is None:
        return scaling
    return Scaling(scaling.scale, scaling.shift, perm[scaling.axis] if backwards else perm.index(scaling.axis))


def _padded(node: onnx.NodeProto, scaling: Scaling, graph: Graph, backwards: bool) -> onnx.NodeProto | None:
    pads = full_pads(node, graph)
    if pads is None or (scaling.axis is not None and pads[:, scaling.axis].any()):
        return None
    if attribute(node, "mode", b"constant") != b"constant":
        return graph.changed(node)
    value = graph.scalar(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    if value is None or not (backwards or scaling.scale.all()):
        return None
    new = scaling.scale * value + scaling.shift if backwards else (value - scaling.shift) / scaling.scale
    if (new != new[0]).any():
        return None
    inputs = list(node.input)
    if new[0] != value:
        inputs[2:3] = [graph.add_constant(np.array(new[0], np.float32), f"{node.output[0]}/value")]
    return graph.changed(node, inputs)


def _joined(node: onnx.NodeProto, scaling: Scaling, graph: Graph) -> Beyond | None:
    before = scaling_of(node, graph)
    both = before[1].then(scaling) if before is not None else None
    return None if before is None or both is None else Beyond([], both, before[0])
