"""Values spread to a full shape only for elementwise operators to read them: those broadcast by themselves.

    Mul(Expand(a, Shape(v)), b)        ->        Mul(a, b)        where b has the shape of v

So the gradient of a global average pool is not written out for each pixel (0.5 ms for 8 images of 1280x7x7). Equal to the bit.
It does not fire where another operator reads what is spread, or shapes are not known.
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import consumers
from onnx_distill.lower.nodes import Constants, rewritten

BROADCASTING = frozenset("Add Div Mul Sub".split())


def lower_expands(training: onnx.ModelProto, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, in which nothing is spread for broadcasting operators."""
    readers, outputs = consumers(training), {value.name for value in training.graph.output}
    full_shape = {node.output[0]: shapes.get(node.input[0]) for node in training.graph.node if node.op_type == "Shape"}
    narrow = {
        node.output[0]: node.input[0]
        for node in training.graph.node
        if node.op_type == "Expand"
        and node.output[0] not in outputs
        and all(
            _broadcasts(reader, node.output[0], full_shape.get(node.input[1]), shapes) for reader in readers[node.output[0]]
        )
    }

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if not narrow.keys() & set(node.input):
            return None
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:] = [narrow.get(name, name) for name in node.input]
        return [copy]

    return rewritten(training, rewrite, Constants()) if narrow else training


def _broadcasts(reader: onnx.NodeProto, spread: str, full: list[int] | None, shapes: dict[str, list[int]]) -> bool:
    others = [name for name in reader.input if name != spread]
    return (
        reader.op_type in BROADCASTING and full is not None and bool(others) and all(shapes.get(o) == full for o in others)
    )
