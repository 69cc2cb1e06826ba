"""The layers of a model as its owner knows them, by the names of nodes, and the bits that each has.

A layer is a node with its weights and the value that it makes, the Relu or Clip behind it included. So weights belong to the node
that reads them, and an activation to the node that makes it; the images belong to the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import onnx

from onnx_distill import qdq
from onnx_distill.columns import aligned
from onnx_distill.lookup import array, consumers, data_inputs, initializers, producers
from onnx_distill.numerics import IntegerRange
from onnx_distill.placement.table import ABSORBED, JOINING, PLACEMENT, WEIGHTED
from onnx_distill.qdq import OUR_SUFFIX, Quantizer


@dataclass(frozen=True)
class LayerBits:
    """weights: how many; 0 where there are none. None for bits: float, or nothing that could be quantized."""

    name: str
    operator: str  # 'input' for the images
    weights: int
    weight_bits: Optional[int]
    activation_bits: Optional[int]


def layer_bits(model: onnx.ModelProto) -> list[LayerBits]:
    """The input, every node with weights, and every other that makes a quantized value (in a float model: that might), in graph order."""
    constants, found = initializers(model), qdq.find(model)
    weights = {q.result: q for q in found if q.source in constants}
    names, values = layer_names(model), without_aliases([q for q in found if q.source not in constants])
    activations = {names[q.result]: q.integers.bits for q in values}
    listed = [LayerBits(value.name, "input", 0, None, activations.pop(value.name, None)) for value in data_inputs(model)]
    for node in model.graph.node:
        q = weights.get(node.input[1]) if len(node.input) > 1 else None
        tensor = constants.get(q.source if q else node.input[1] if len(node.input) > 1 else "")
        has_weights = tensor is not None and PLACEMENT.get(node.op_type) == WEIGHTED
        count = math.prod(tensor.dims) if has_weights and tensor is not None else 0
        if count or _name(node) in activations or (not found and PLACEMENT.get(node.op_type) == JOINING):
            bits = activations.pop(_name(node), None)
            listed.append(
                LayerBits(_name(node), node.op_type, count, _weight_bits(q, constants) if q and count else None, bits)
            )
    return listed + [LayerBits(name, "Relu or Clip", 0, None, bits) for name, bits in activations.items()]


def _weight_bits(q: Quantizer, constants: dict[str, onnx.TensorProto]) -> int:
    """Those of the quantizer; of integers that are stored in 8 bits, whatever they are, as many as the largest needs."""
    if not q.stored:
        return q.integers.bits
    integers = array(constants[q.source]).astype(np.int32)  # int4 too
    zero_point = int(array(constants[q.zero_point]).reshape(-1)[0]) if q.zero_point else 0
    least, most = int(integers.min(initial=zero_point)), int(integers.max(initial=zero_point))
    return IntegerRange(least - zero_point, most - zero_point, "int8").bits


def layer_names(model: onnx.ModelProto) -> dict[str, str]:
    """The name of the layer of each quantizer, by the value that the quantizer makes.

    A quantizer that has absorbed a Relu which is not alone in reading its input goes by the name of that Relu's value.
    """
    constants, made_by, readers = initializers(model), producers(model), consumers(model)
    names = {}
    for q in qdq.find(model):
        if q.source in constants:
            names[q.result] = _name(readers[q.result][0]) if q.result in readers else q.source
        elif q.result.endswith(OUR_SUFFIX) and _is_dequantized(q.source, made_by):
            names[q.result] = q.result[: -len(OUR_SUFFIX)]
        else:
            names[q.result] = _maker(q.source, made_by, readers)
    return names


def _maker(value: str, made_by: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]]) -> str:
    """The node that makes the value; where that is a Relu or Clip that alone reads another node's value, that node."""
    node = made_by.get(value)
    while node is not None and PLACEMENT.get(node.op_type) == ABSORBED and len(readers[node.input[0]]) == 1:
        if _is_dequantized(node.input[0], made_by):
            break
        value, node = node.input[0], made_by.get(node.input[0])
    return _name(node) if node is not None else value


def _is_dequantized(value: str, made_by: dict[str, onnx.NodeProto]) -> bool:
    return value in made_by and made_by[value].op_type == "DequantizeLinear"


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def without_aliases(quantizers: list[Quantizer]) -> list[Quantizer]:
    """Those with a scale of their own: the rest pass on the integers of another."""
    return list({q.scale: q for q in reversed(quantizers)}.values())[::-1]


def render_layers(found: Sequence[LayerBits]) -> str:
    """One line a layer: its name, operator, number of weights, bits of the weights (W) and of the activation that it makes (A)."""
    rows = [("layer", "operator", "weights", "W", "A")]
    rows += [
        (x.name, x.operator, f"{x.weights:,}" if x.weights else "", _width(x.weight_bits), _width(x.activation_bits))
        for x in found
    ]
    return aligned(rows, left=2)


def _width(bits: Optional[int]) -> str:
    return "-" if bits is None else str(bits)


def bits_summary(found: Sequence[LayerBits]) -> str:
    """'W8 in 2 layers (4,368 weights), W4 in 27 (331,472); A8': how many weights have how many bits, and the activations' bits."""
    counts: dict[int, list[int]] = {}
    for x in found:
        if x.weight_bits:
            counts.setdefault(x.weight_bits, []).append(x.weights)
    parts = [
        f"W{bits} in {_layers(len(counts[bits]))} ({sum(counts[bits]):,} weights)" for bits in sorted(counts, reverse=True)
    ]
    activations = sorted({x.activation_bits for x in found if x.activation_bits}, reverse=True)
    return "; ".join([", ".join(parts), " ".join(f"A{bits}" for bits in activations)]).strip("; ")


def weights_summary(found: Sequence[LayerBits], weight_storage: str = "int8") -> str:
    """What a quantized model's weights are and weigh in a file: bits_summary, bytes before and after, and what few bits save there.

    weight_storage: int8 keeps a byte for each weight; int4 half a byte for those of at most 4 bits.
    """
    weighted = [(x.weights, x.weight_bits) for x in found if x.weight_bits]
    halves = weight_storage == "int4"
    before = 4 * sum(count for count, _ in weighted)
    after = sum(count / 2 if halves and bits <= 4 else count for count, bits in weighted)
    line = f"{bits_summary(found)}; {before / 1000:,.1f} kB of float weights become {after / 1000:,.1f} kB"
    if halves and any(bits <= 4 for _, bits in weighted):
        return f"{line}; onnxruntime computes layers of int4 weights in floats, more slowly than in the float model"
    return f"{line}: weights of fewer than 8 bits take a byte each, too" if any(bits < 8 for _, bits in weighted) else line


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
