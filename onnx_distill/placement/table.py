"""Which operators stock ONNX Runtime runs in integers between DequantizeLinear and QuantizeLinear, and in which form.

Every row was tried in 1.19.2 and 1.32 on x86: a graph with quantizers on all sides, and what the optimizer made of it.
Flatten, Slice, Expand, Tile and DepthToSpace pass integers since 1.20; before, they pass the floats that the integers stand
for. No kernel in either: Sub, Div, Max, Min, Sum, Pad, ReduceMean, Tanh, Erf, Gelu, HardSwish, HardSigmoid, PRelu,
LayerNormalization and all others. A Softmax and a Where have one and are left float: QLinearSoftmax takes twice the time of
the float kernel with a quantizer behind it (50 x 50 attention, 0.37 against 0.19 ms), and a linear Resize of integers is off
by a step in half of its values (1.19.2).
"""

from __future__ import annotations

import math
from typing import Callable, Mapping

import onnx

from onnx_distill.lookup import attribute

WEIGHTED = "weighted"  # input 0 activation, input 1 weight, input 2 bias
JOINING = "joining"  # every input an activation; float where that needs fewer conversions
ABSORBED = "absorbed"  # becomes a bound of the quantizer behind it
PASSING = "passing"  # outputs have the quantizer of the first input

PLACEMENT = {
    "Conv": WEIGHTED,
    "Gemm": WEIGHTED,
    "MatMul": WEIGHTED,
    "Add": JOINING,
    "Mul": JOINING,
    "Concat": JOINING,
    "Sigmoid": JOINING,
    "LeakyRelu": JOINING,
    "AveragePool": JOINING,
    "GlobalAveragePool": JOINING,
    "Relu": ABSORBED,
    "Clip": ABSORBED,
    "Reshape": PASSING,
    "Transpose": PASSING,
    "Flatten": PASSING,
    "Squeeze": PASSING,
    "Unsqueeze": PASSING,
    "MaxPool": PASSING,
    "Slice": PASSING,
    "Split": PASSING,
    "Gather": PASSING,
    "Expand": PASSING,
    "Tile": PASSING,
    "DepthToSpace": PASSING,
    "Resize": PASSING,
}
OUTPUT_AXIS = {"Conv": 0, "Gemm": 1, "MatMul": -1}  # of the weight, transB aside
FLOAT_RESULT = frozenset(["Gemm", "MatMul"])  # their integer kernels hand out floats too: MatMulIntegerToFloat, QGemm
SIZES = frozenset(["Shape", "Size"])  # what they make depends on no number of what they read
SHRINKING = frozenset(["AveragePool", "GlobalAveragePool"])  # what comes out is so small that its form does not matter

Constants = Mapping[str, onnx.TensorProto]


def role_of(node: onnx.NodeProto, constants: Constants) -> str | None:
    """The node's row in PLACEMENT, or None where the runtime has no integer kernel for this form of it."""
    if node.domain not in ("", "ai.onnx") or not FORMS.get(node.op_type, _any)(node, constants):
        return None
    return PLACEMENT.get(node.op_type)


def weight_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Axis of the output channels in the weight of a Conv, Gemm or MatMul; None where the runtime wants one scale."""
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return 0
    if node.op_type == "MatMul" and rank != 2:  # QLinearMatMul refuses scales per column of any other rank (1.19.2)
        return None
    return OUTPUT_AXIS[node.op_type] % rank


def _any(node: onnx.NodeProto, constants: Constants) -> bool:
    return True


def _integer_sides(node: onnx.NodeProto, constants: Constants) -> bool:
    """Weight and bias are constants, the bias one value a channel or one for all."""
    if node.input[1] not in constants or node.input[0] in constants:
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    dims = constants[node.input[1]].dims
    return node.input[2] in constants and _size(constants[node.input[2]]) in (1, dims[weight_axis(node, len(dims))])


def _gemm(node: onnx.NodeProto, constants: Constants) -> bool:
    """alpha and beta are 1, transA is 0, weight and bias are constants."""
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)
    return factors == (1.0, 1.0, 0) and _integer_sides(node, constants)


def _scalars(node: onnx.NodeProto, constants: Constants) -> bool:
    """A constant operand is one number, which 8 bits hold exactly: the channels of a vector would share one grid."""
    operands = [constants[name] for name in node.input if name in constants]
    return len(operands) < len(node.input) and all(_size(tensor) == 1 for tensor in operands)


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _no_constants(node: onnx.NodeProto, constants: Constants) -> bool:
    """No operand is a constant."""
    return not any(name in constants for name in node.input)


def _of_an_activation(node: onnx.NodeProto, constants: Constants) -> bool:
    """It picks from an activation."""
    return node.input[0] not in constants


def _nearest(node: onnx.NodeProto, constants: Constants) -> bool:
    """Its mode is nearest."""
    return attribute(node, "mode", b"nearest") == b"nearest"


FORMS: dict[str, Callable[[onnx.NodeProto, Constants], bool]] = {
    "Conv": _integer_sides,
    "Gemm": _gemm,
    "Add": _scalars,
    "Mul": _scalars,
    "Concat": _no_constants,
    "Gather": _of_an_activation,
    "Resize": _nearest,
}
