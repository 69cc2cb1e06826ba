"""Integers: weights of a QDQ student become int8 and biases int32 initializers, Q/DQ stay where runtimes fuse them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.bias import align_biases, biased_sides
from onnx_distill.model import array, fresh_name, initializers, names, prune
from onnx_distill.qdq import Quantizer


def export(student: onnx.ModelProto) -> onnx.ModelProto:
    """The QDQ student with integer weights and biases; computes what the student computes."""
    made = onnx.ModelProto()
    made.CopyFrom(student)
    align_biases(made)
    quantizers = qdq.find(made)
    _store_biases(made, {q.result: q for q in quantizers})
    constants = initializers(made)
    for q in quantizers:
        if q.source in constants and not q.stored:
            _store_weight(made, q, constants)
    prune(made)
    return made


def _store_weight(model: onnx.ModelProto, q: Quantizer, constants: dict[str, onnx.TensorProto]) -> None:
    weights = array(constants[q.source])
    scale = numerics.broadcastable(array(constants[q.scale]), weights.ndim, q.axis)
    zero_point = array(constants[q.zero_point]).astype(np.int32) if q.zero_point else np.int32(0)
    zero_point = zero_point.reshape(scale.shape) if np.ndim(zero_point) else zero_point
    integers = numerics.quantize(weights, scale, zero_point, q.integers.qmin, q.integers.qmax).astype(q.integers.dtype)
    name = fresh_name(f"{q.source}/integers", names(model))
    model.graph.initializer.append(numpy_helper.from_array(integers, name))
    dequantize = next(node for node in model.graph.node if node.output[0] == q.result)
    dequantize.input[0] = name


def _store_biases(model: onnx.ModelProto, by_result: dict[str, Quantizer]) -> None:
    constants, first = initializers(model), []
    for node in model.graph.node:
        sides = biased_sides(node, by_result, constants)
        if sides is None:
            continue
        scales = [array(constants[q.scale]) for q in sides]
        bias = node.input[2]
        integers = numerics.quantize_bias(array(constants[bias]), *scales)
        step = (scales[0] * scales[1]).astype(np.float32)
        taken = names(model)
        stored, scale, result = (fresh_name(f"{bias}/{part}", taken) for part in ("integers", "scale", "dequantized"))
        model.graph.initializer.extend(
            [numpy_helper.from_array(integers, stored), numpy_helper.from_array(np.asarray(step), scale)]
        )
        axis: dict[str, Any] = {"axis": 0} if step.ndim else {}
        first.append(helper.make_node("DequantizeLinear", [stored, scale], [result], f"{bias}/DequantizeLinear", **axis))
        node.input[2] = result
    for node in reversed(first):
        model.graph.node.insert(0, node)
