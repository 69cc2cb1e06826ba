"""The floats that a model holds, in whatever form its exporter stored them: initializers, Constant and ConstantOfShape nodes."""

from __future__ import annotations

import math
from typing import Iterator

import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill.lookup import attribute, initializers

FLOAT_BYTES: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}


def held(model: onnx.ModelProto) -> tuple[int, int]:
    """Their number, and their size in bytes. What other nodes make of them is not counted again."""
    found = [(count, FLOAT_BYTES[kind]) for count, kind in _held(model) if kind in FLOAT_BYTES]
    return sum(count for count, _ in found), sum(count * size for count, size in found)


def _held(model: onnx.ModelProto) -> Iterator[tuple[int, int]]:
    """(elements, TensorProto.DataType) of each."""
    tensors = initializers(model)
    for node in model.graph.node:
        tensor = attribute(node, "value") if node.op_type == "Constant" else None
        if tensor is not None:
            tensors[node.output[0]] = tensor
    yield from ((math.prod(tensor.dims), tensor.data_type) for tensor in tensors.values())
    for node in model.graph.node:
        if node.op_type == "Constant":
            floats = attribute(node, "value_floats", []) or [attribute(node, "value_float")]
            yield len([number for number in floats if number is not None]), TensorProto.FLOAT
        if node.op_type == "ConstantOfShape" and node.input[0] in tensors:
            filled = attribute(node, "value")
            shape = numpy_helper.to_array(tensors[node.input[0]]).tolist()
            yield math.prod(shape), TensorProto.FLOAT if filled is None else filled.data_type
