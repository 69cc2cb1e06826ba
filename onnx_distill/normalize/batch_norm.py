"""BatchNormalization goes into the Conv, ConvTranspose, Gemm or MatMul in front of it or behind it, or becomes Mul and Add.

As the trainer's runtime turns every one that is left into batch statistics. Where it goes is in fold.py. Must not fire in training
mode (or where its statistics are outputs), where gain, bias, mean or variance are computed, no float32, or give no finite number.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.fold import fold
from onnx_distill.normalize.graph import Graph

OPS = ("BatchNormalization",)


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    return fold(node, graph)
