"""Mul, Div, Add and Sub of a constant, one for each channel or one for all, go into the weights in front of them or behind them.

Where they go is in fold.py. What is left becomes one Mul, one Add, or a Mul and an Add, which have integer kernels. Must not fire on
a constant that varies along two axes or makes more of a value than there is, on c / x, nor on numbers other than float32.
"""

from __future__ import annotations

import onnx

from onnx_distill.normalize.fold import fold
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.scaling import ARITHMETIC

OPS = ARITHMETIC


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    return fold(node, graph)
