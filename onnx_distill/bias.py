"""Biases: in an integer layer they are int32, in steps of input scale times weight scale.

A QDQ model keeps them as floats on that grid, so that it computes what its exported form computes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.model import array, initializers
from onnx_distill.placement import PLACEMENT, WEIGHTED, weight_axis
from onnx_distill.qdq import Quantizer


def align_biases(model: onnx.ModelProto) -> None:
    """Round, in place, every bias to the grid of its node's integer accumulator, raising weight scales that are too small."""
    constants = initializers(model)
    by_result = {q.result: q for q in qdq.find(model)}
    for node in model.graph.node:
        sides = biased_sides(node, by_result, constants)
        if sides is None:
            continue
        activation, weight = sides
        scales = [array(constants[q.scale]) for q in (activation, weight)]
        bias = array(constants[node.input[2]])
        safe = numerics.safe_weight_scale(scales[1], scales[0], bias)
        _replace(constants[weight.scale], safe)
        step = scales[0] * safe
        _replace(constants[node.input[2]], numerics.quantize_bias(bias, scales[0], safe).astype(np.float32) * step)


def biased_sides(node: onnx.NodeProto, by_result: dict[str, Quantizer], constants: dict) -> tuple[Quantizer, Quantizer] | None:
    """The quantizers of activation and weight for a node with a constant float bias that becomes int32; else None."""
    if PLACEMENT.get(node.op_type) != WEIGHTED or len(node.input) < 3 or node.input[2] not in constants:
        return None
    sides = by_result.get(node.input[0]), by_result.get(node.input[1])
    if None in sides or sides[0].source in constants:
        return None
    rank = len(constants[sides[1].source].dims)
    return sides if sides[1].axis in (None, weight_axis(node, rank)) else None


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), tensor.name))
