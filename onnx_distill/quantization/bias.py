"""Biases: in an integer layer they are int32, in steps of input scale times weight scale.

A QDQ model keeps them as floats on that grid, so that it computes what its exported form computes.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.edit import fresh_name
from onnx_distill.lookup import array, initializers, names
from onnx_distill.placement.table import PLACEMENT, WEIGHTED, weight_axis
from onnx_distill.qdq import Quantizer


def align_biases(model: onnx.ModelProto) -> None:
    """Round, in place, every bias to the grid of its node's integer accumulator, raising weight scales that are too small.

    Each bias becomes its node's own, of shape [channels]. Applied twice it changes nothing more.
    """
    by_result = {q.result: q for q in qdq.find(model)}
    constants = initializers(model)
    biased = [(node, sides) for node in model.graph.node for sides in [biased_sides(node, by_result, constants)] if sides]
    reads = Counter(name for node in model.graph.node for name in node.input)
    taken = names(model)
    for node, sides in biased:
        _separate(model, node, constants, sides[1], reads, taken)
    for node, sides in biased:
        _make_room(constants, sides, array(constants[node.input[2]]))
    for node, (activation, weight) in biased:
        scales = [array(constants[q.scale]) for q in (activation, weight)]
        bias = numerics.quantize_bias(array(constants[node.input[2]]), *scales).astype(np.float32) * (scales[0] * scales[1])
        _replace(constants[node.input[2]], bias)


def _separate(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    weight: Quantizer,
    reads: Counter[str],
    taken: set[str],
) -> None:
    """Give the node a bias that nothing else reads, with one entry a channel. reads: how often each value is read."""
    dims = constants[weight.source].dims
    bias = constants[node.input[2]]
    values = np.broadcast_to(array(bias).reshape(-1), [dims[weight_axis(node, len(dims))]])
    if reads[bias.name] > 1:
        reads[bias.name] -= 1
        node.input[2] = fresh_name(f"{bias.name}/of/{node.name or node.output[0]}", taken)
        bias = constants[node.input[2]] = model.graph.initializer.add(name=node.input[2])
    _replace(bias, values)


def _make_room(constants: dict, sides: tuple[Quantizer, Quantizer], bias: np.ndarray) -> None:
    """Raise the weight's scale where the bias would not fit int32; integers that are stored already follow."""
    weight = sides[1]
    scale = array(constants[weight.scale])
    safe = numerics.safe_weight_scale(scale, array(constants[sides[0].scale]), bias)
    if np.array_equal(safe, scale):
        return
    if weight.stored:
        stored = constants[weight.source]
        old, new = (numerics.broadcastable(s, len(stored.dims), weight.axis) for s in (scale, safe))
        moved = numerics.quantize(
            numerics.dequantize(array(stored), old, 0), new, 0, weight.integers.qmin, weight.integers.qmax
        )
        stored.CopyFrom(numpy_helper.from_array(moved.astype(weight.integers.dtype), stored.name))
    _replace(constants[weight.scale], safe)


def biased_sides(
    node: onnx.NodeProto, by_result: dict[str, Quantizer], constants: dict
) -> tuple[Quantizer, Quantizer] | None:
    """The quantizers of activation and weight for a node with a constant float bias that becomes int32; else None."""
    if PLACEMENT.get(node.op_type) != WEIGHTED or len(node.input) < 3 or node.input[2] not in constants:
        return None
    activation, weight = by_result.get(node.input[0]), by_result.get(node.input[1])
    if activation is None or weight is None or activation.source in constants or weight.source not in constants:
        return None
    rank = len(constants[weight.source].dims)
    return (activation, weight) if activation.axis is None and weight.axis in (None, weight_axis(node, rank)) else None


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), tensor.name))
