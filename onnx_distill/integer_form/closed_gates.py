"""What a gate closes needs no range: values that it multiplies with 0 are cut off before they are quantized.

    u * Clip(u + c, 0, d)   becomes   v * Clip(v + c, 0, d),   v = Clip(u, -c)

as hard_gates writes HardSwish. Below -c both are 0; the Clip is absorbed by the quantizer behind it, whose range then begins
at -c and has finer steps (by 1.2 to 1.6 times in the 18 gates of a MobileNetV3 that reads text).

Not where something else reads u, nor where zero is the middle of the range (`symmetric`): there the Clip could not be absorbed.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

OPS = ("Mul",)


def find(node: onnx.NodeProto, graph: Graph) -> tuple[onnx.NodeProto, ...] | None:
    """The gate's Clip, its Add and what makes u."""
    for u, gate in (node.input, reversed(node.input)):
        clip = graph.producer(gate)
        add = graph.producer(clip.input[0]) if clip is not None and clip.op_type == "Clip" else None
        maker = graph.producer(u)
        if clip is None or add is None or maker is None or maker.op_type not in ("Conv", "Gemm") or add.op_type != "Add":
            continue
        alone = graph.only_reader(gate) is node and graph.only_reader(add.output[0]) is clip and u not in graph.outputs
        readers = graph.readers(u)
        if (
            alone
            and add.input[0] == u
            and len(readers) == 2
            and _opens_at(add, graph) is not None
            and _low(clip, graph) == 0
        ):
            return clip, add, maker
    return None


def rewrite(node: onnx.NodeProto, clip: onnx.NodeProto, add: onnx.NodeProto, maker: onnx.NodeProto, graph: Graph) -> None:
    u, opens = add.input[0], _opens_at(add, graph)
    assert opens is not None  # by find
    bound = graph.node("Clip", [u, graph.add_constant(np.array(opens, np.float32), f"{add.name}/opens")], add)
    ends = {u: bound.output[0]}
    for reader in (add, node):
        changed = graph.changed(reader, [ends.get(name, name) for name in reader.input])
        graph.replace(reader, [bound, changed] if reader is add else [changed])


def _opens_at(add: onnx.NodeProto, graph: Graph) -> float | None:
    """-c, which is below 0; None where c is no number above 0."""
    c = graph.scalar(add.input[1])
    return -c if c is not None and c > 0 else None


def _low(clip: onnx.NodeProto, graph: Graph) -> float | None:
    return graph.scalar(clip.input[1]) if len(clip.input) > 1 else None
