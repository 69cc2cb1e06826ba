"""Quantizers in a graph: x -> QuantizeLinear -> [Clip] -> DequantizeLinear, written and read back.

The integer range is what the container's type can hold, or the bounds of a Clip on the integers in between: 4-bit values
in uint8 are QuantizeLinear, Clip(0, 15), DequantizeLinear. So the graph alone says everything, and stock runtimes still
fuse both sides: a Clip on integers is cheap, one on floats would keep the node before it from running in integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill.model import array, attribute, initializers, producers
from onnx_distill.numerics import IntegerRange

CONTAINERS = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8"}


@dataclass(frozen=True)
class Quantizer:
    """One quantized value.

    source: the float value that is quantized, or the integer initializer of weights stored as integers.
    result: the float value after DequantizeLinear.
    scale, zero_point: names of initializers, of shape [] or [n] along `axis` (None: per tensor).
    stored: the weights are integers already; there is no QuantizeLinear.
    """

    source: str
    result: str
    scale: str
    zero_point: str
    integers: IntegerRange
    axis: int | None = None
    stored: bool = False


def nodes(q: Quantizer) -> list[onnx.NodeProto]:
    """The nodes of a quantizer that starts from floats, in order."""
    axis = {} if q.axis is None else {"axis": q.axis}
    integers = f"{q.source}/quantized"
    chain = [helper.make_node("QuantizeLinear", [q.source, q.scale, q.zero_point], [integers], f"{q.source}/QuantizeLinear", **axis)]
    if not q.integers.fills_container:
        clip = helper.make_node("Clip", [integers, *bound_names(q.integers)], [f"{q.source}/clipped"], f"{q.source}/Clip")
        chain, integers = [*chain, clip], f"{q.source}/clipped"
    return [*chain, helper.make_node("DequantizeLinear", [integers, q.scale, q.zero_point], [q.result], f"{q.source}/DequantizeLinear", **axis)]


def bound_names(integers: IntegerRange) -> tuple[str, str]:
    """Names of the two initializers that a Clip on this container reads."""
    return f"{integers.dtype}/{integers.qmin}", f"{integers.dtype}/{integers.qmax}"


def bounds(integers: IntegerRange) -> list[onnx.TensorProto]:
    """The two scalars of `bound_names`."""
    values = (integers.qmin, integers.qmax)
    return [numpy_helper.from_array(np.array(v, integers.dtype), n) for v, n in zip(values, bound_names(integers))]


def find(model: onnx.ModelProto) -> list[Quantizer]:
    """Every quantizer in the graph, in the order of its DequantizeLinear nodes; those of int32 biases are left out."""
    constants, made_by = initializers(model), producers(model)
    found = (_read(node, constants, made_by) for node in model.graph.node if node.op_type == "DequantizeLinear")
    return [quantizer for quantizer in found if quantizer]


def _read(dequantize: onnx.NodeProto, constants: dict, made_by: dict) -> Quantizer | None:
    integers, scale = dequantize.input[0], dequantize.input[1]
    zero_point = dequantize.input[2] if len(dequantize.input) > 2 else ""
    rank_one = scale in constants and len(constants[scale].dims) == 1 and constants[scale].dims[0] > 1
    axis = attribute(dequantize, "axis", 1) if rank_one else None
    if integers in constants:
        kind = CONTAINERS.get(constants[integers].data_type)
        return kind and Quantizer(integers, dequantize.output[0], scale, zero_point, _container(kind), axis, stored=True)
    node, limits = made_by.get(integers), None
    if node is not None and node.op_type == "Clip":
        limits = [int(array(constants[name])) for name in node.input[1:3]]
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear":
        return None
    kind = CONTAINERS[constants[node.input[2]].data_type] if len(node.input) > 2 else "uint8"
    return Quantizer(node.input[0], dequantize.output[0], scale, zero_point, IntegerRange(*limits, kind) if limits else _container(kind), axis)


def _container(kind: str) -> IntegerRange:
    info = np.iinfo(kind)
    return IntegerRange(int(info.min), int(info.max), kind)


def is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
