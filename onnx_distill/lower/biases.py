"""FakeQuantizeBias as the four nodes of its formula, in its place: y = s * round(b / s), s = s_x * s_w.

The runtime would write the same four nodes, behind all others; then a model's own order (order.py) is lost. Equal to the bit.
"""

from __future__ import annotations

import onnx

from onnx_distill.lower.nodes import Constants, Nodes, rewritten
from onnx_distill.trainable.fake_quant import DOMAIN


def lower_biases(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model without FakeQuantizeBias nodes."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.domain != DOMAIN or not node.op_type.startswith("FakeQuantizeBias"):
            return None
        bias, s_x, s_w = node.input
        graph = Nodes(constants, f"{node.output[0]}/grid")
        s = graph("Mul", s_x, s_w)
        graph("Mul", graph("Round", graph("Div", bias, s)), s, to=node.output[0])
        return graph.nodes

    return rewritten(training, rewrite, constants)
