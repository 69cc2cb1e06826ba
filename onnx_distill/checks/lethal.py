"""What kills the process inside the runtime (1.19.2), or keeps it busy for ever, though every shape fits.

Div, Mod of whole numbers     by 0, or of the smallest number by -1: SIGFPE. A divisor that depends on the images may be 0
RoiAlign, MaxUnpool           read and write wherever their indices say
Loop                          runs as often as it is told, in a loop too
Resize, Upsample              of scales that are no size, ConvTranspose with more output_padding than a stride: no answer that
                              two kernels agree on
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill.checks.seen import Operands

MOST_ROUNDS = 100_000  # of a Loop, those of loops inside it counted; what exporters write counts channels, layers or places
WHOLE = frozenset(
    getattr(TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 INT4 UINT4".split()
)
SIGNED = frozenset([TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.INT4])
WILD = ("RoiAlign", "MaxUnpool")
SCALES = {"Upsample": (1,), "Resize": (1, 2, 3)}  # before opset 11 the scales are a Resize's second input; 3 are sizes


def _division(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type not in ("Div", "Mod") or not WHOLE & {operands.kind(0), operands.kind(1)}:
        return None
    divisor = operands.constant(1)
    if divisor is None:
        computed = "divides whole numbers by what it computes from the images, which may be 0"
        return None if operands.is_measured(1) else computed
    values = numpy_helper.to_array(divisor)
    if (values == 0).any():
        return "divides whole numbers by zero"
    negative = operands.kind(1) in SIGNED and operands.constant(0) is None and (values == -1).any()
    return "divides whole numbers by -1, which the smallest has no result for" if negative else None


def _wild(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type in WILD and node.domain in ("", "ai.onnx"):
        return "goes wherever in memory its indices say, and no classifier needs it"
    return None


def _left_out(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type == "Split" and not all(node.output):
        return f"leaves out its output {list(node.output).index('')}, which it cannot do without"
    return None


def rounds(node: onnx.NodeProto, operands: Operands) -> int:
    """How often what is inside the node runs, all loops around it counted; as often as outside where that is not known."""
    count = operands.constant(0) if node.op_type == "Loop" else None
    if count is None or count.data_type != TensorProto.INT64 or list(count.dims) not in ([], [1]):
        return operands.rounds
    return operands.rounds * max(1, int(numpy_helper.to_array(count).reshape(())))


def _rounds(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type != "Loop":
        return None
    count = operands.constant(0)
    if count is None or count.data_type != TensorProto.INT64 or list(count.dims) not in ([], [1]):
        return "may run for ever: how often is not a constant"
    total = rounds(node, operands)
    return f"runs {total} times; wanted at most {MOST_ROUNDS}" if total > MOST_ROUNDS else None


def _scales(node: onnx.NodeProto, operands: Operands) -> str | None:
    for place in SCALES.get(node.op_type, ()):
        tensor = operands.constant(place)
        if tensor is None or (place == 1 and node.op_type == "Resize" and operands.opset > 10):  # a region, seldom read
            continue
        values = numpy_helper.to_array(tensor).astype(np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            return f"resizes by {values.tolist()}; wanted positive numbers"
    return None


def _output_padding(node: onnx.NodeProto, operands: Operands) -> str | None:
    given = {entry.name: list(entry.ints) for entry in node.attribute}
    added = given.get("output_padding", []) if node.op_type == "ConvTranspose" else []
    steps = [given.get(name) or [1] * len(added) for name in ("strides", "dilations")]
    if any(pad >= max(stride, dilation) for pad, stride, dilation in zip(added, *steps)):
        return f"has output_padding = {added}; wanted less than its stride or dilation"
    return None


CHECKS = (_division, _wild, _left_out, _rounds, _scales, _output_padding)
