"""Quantizers in a graph: x -> QuantizeLinear -> [Clip] -> DequantizeLinear, written and read back.

The integer range is what the container's type can hold, or the bounds of a Clip on the integers in between: 4-bit values
in uint8 are QuantizeLinear, Clip(0, 15), DequantizeLinear. So the graph alone says everything, and stock runtimes still
fuse both sides: a Clip on integers is cheap, one on floats would keep the node before it from running in integers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill.errors import InputError
from onnx_distill.lookup import array, attribute, consumers, initializers, producers
from onnx_distill.numerics import IntegerRange

CONTAINERS: dict[int, str] = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.INT8: "int8"}
OUR_SUFFIX = "/dequantized"  # of the values that our own quantizers make; the rest is the float value's name
PACKED = {  # weights that are stored two to a byte
    onnx.TensorProto.INT4: IntegerRange(-8, 7, "int8"),
    onnx.TensorProto.UINT4: IntegerRange(0, 15, "uint8"),
}


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
    axis: dict[str, Any] = {} if q.axis is None else {"axis": q.axis}
    integers = f"{q.source}/quantized"
    chain = [
        helper.make_node(
            "QuantizeLinear", [q.source, q.scale, q.zero_point], [integers], f"{q.source}/QuantizeLinear", **axis
        )
    ]
    if not q.integers.fills_container:
        clip = helper.make_node("Clip", [integers, *bound_names(q.integers)], [f"{q.source}/clipped"], f"{q.source}/Clip")
        chain, integers = [*chain, clip], f"{q.source}/clipped"
    return [
        *chain,
        helper.make_node(
            "DequantizeLinear", [integers, q.scale, q.zero_point], [q.result], f"{q.source}/DequantizeLinear", **axis
        ),
    ]


def bound_names(integers: IntegerRange) -> tuple[str, str]:
    """Names of the two initializers that a Clip on this container reads."""
    return f"{integers.dtype}/{integers.qmin}", f"{integers.dtype}/{integers.qmax}"


def bounds(integers: IntegerRange) -> list[onnx.TensorProto]:
    """The two scalars of `bound_names`."""
    values = (integers.qmin, integers.qmax)
    return [numpy_helper.from_array(np.array(v, integers.dtype), n) for v, n in zip(values, bound_names(integers))]


def find(model: onnx.ModelProto) -> list[Quantizer]:
    """Every quantizer in the graph, in the order of its DequantizeLinear nodes; those of int32 biases and of
    wide_pairs are left out.

    One channel is read as per tensor, which it is. Raises InputError for integers other than 8-bit ones.
    """
    constants, made_by = initializers(model), producers(model)
    wide = {dequantize.output[0] for _, dequantize in wide_pairs(model)}
    ends = (node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.output[0] not in wide)
    found = (_read(node, constants, made_by) for node in ends)
    return [quantizer for quantizer in found if quantizer]


def wide_pairs(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """QuantizeLinear and DequantizeLinear of 16 bits that keep floats floats: between a convolution in integers and a sum, the second
    scale twice the first, as kernels/wide_sums.py writes them."""
    if not any(tensor.data_type == onnx.TensorProto.UINT16 for tensor in model.graph.initializer):
        return []
    constants, made_by, readers = initializers(model), producers(model), consumers(model)
    pairs = [(made_by.get(node.input[0]), node) for node in model.graph.node if node.op_type == "DequantizeLinear"]
    return [(q, dq) for q, dq in pairs if q is not None and _is_wide(q, dq, made_by, readers, constants)]


def _is_wide(quantize: onnx.NodeProto, dequantize: onnx.NodeProto, made_by: dict, readers: dict, constants: dict) -> bool:
    scales, points = ([node.input[i] for node in (quantize, dequantize) if len(node.input) > 2] for i in (1, 2))
    if quantize.op_type != "QuantizeLinear" or len(points) != 2 or not constants.keys() >= {*scales, *points}:
        return False
    half, whole = (array(constants[name]) for name in scales)
    of_16_bits = points[0] == points[1] and constants[points[0]].data_type == onnx.TensorProto.UINT16
    conv, summed = made_by.get(quantize.input[0]), readers.get(dequantize.output[0], [])
    return (
        of_16_bits
        and half.size == whole.size == 1
        and bool(whole == 2 * half)
        and conv is not None
        and is_integer_conv(conv, made_by, readers, constants)
        and [node.op_type for node in summed] == ["Add"]
    )


def is_integer_conv(node: onnx.NodeProto, made_by: dict, readers: dict, constants: dict) -> bool:
    """Whether it is a Conv whose operands are all dequantized, weights and bias for it alone."""
    sides = [made_by.get(name) for name in node.input]
    quantized = all(side is not None and side.op_type == "DequantizeLinear" for side in sides)
    own = (len(readers[name]) == 1 and constants.keys() >= {*made_by[name].input[:2]} for name in node.input[1:])
    return node.op_type == "Conv" and quantized and all(own)


def _read(dequantize: onnx.NodeProto, constants: dict, made_by: dict) -> Quantizer | None:
    stored, scale = dequantize.input[0], dequantize.input[1]
    zero_point = dequantize.input[2] if len(dequantize.input) > 2 else ""
    rank_one = scale in constants and len(constants[scale].dims) == 1 and constants[scale].dims[0] > 1
    axis = attribute(dequantize, "axis", 1) if rank_one else None
    if stored in constants:
        if constants[stored].data_type == onnx.TensorProto.INT32:
            return None
        packed = PACKED.get(constants[stored].data_type)
        return Quantizer(
            stored,
            dequantize.output[0],
            scale,
            zero_point,
            packed or _container(_kind(constants[stored], stored)),
            _from_front(axis, constants[stored]),
            stored=True,
        )
    node, limits = made_by.get(stored), None
    if node is not None and node.op_type == "Clip":
        limits = [int(array(constants[name])) for name in node.input[1:3]]
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear":
        return None
    kind = _kind(constants.get(node.input[2]), node.input[0]) if len(node.input) > 2 else "uint8"
    axis = _from_front(axis, constants.get(node.input[0]))
    integers = IntegerRange(limits[0], limits[1], kind) if limits else _container(kind)
    return Quantizer(node.input[0], dequantize.output[0], scale, zero_point, integers, axis)


def _kind(integers: onnx.TensorProto | None, value: str) -> str:
    if integers is None or integers.data_type not in CONTAINERS:
        found = (
            "a zero point that is no initializer"
            if integers is None
            else helper.tensor_dtype_to_np_dtype(integers.data_type).name
        )
        raise InputError(
            f"the quantizer of {value!r} has {found}; wanted constant uint8 or int8. Quantize the model to 8 bits."
        )
    return CONTAINERS[integers.data_type]


def _from_front(axis: int | None, tensor: onnx.TensorProto | None) -> int | None:
    """The axis counted from the front, as other tools need not count it."""
    return axis if axis is None or tensor is None else axis % len(tensor.dims)


def _container(kind: str) -> IntegerRange:
    info = np.iinfo(kind)
    return IntegerRange(int(info.min), int(info.max), kind)


def stands_for(q: Quantizer, made: Collection[str]) -> str | None:
    """Of the values that a float model makes, the one that this quantizer of its student stands for: behind a Relu that it
    absorbed, where there was one."""
    behind = q.result[: -len(OUR_SUFFIX)] if q.result.endswith(OUR_SUFFIX) else q.result
    return next((name for name in (behind, q.source) if name in made), None)


def wants_power_of_two(node: onnx.NodeProto | None) -> bool:
    """Whether what quantizes the output of this node must have a scale of 2^-n, for good: stock runtimes make an inner Softmax
    a QLinearSoftmax, which cuts off where QuantizeLinear rounds, so that up to 6 % of its integers are one too small, but
    for such scales (1.19.2 and 1.32).
    """
    return node is not None and node.op_type == "Softmax"


def is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)
