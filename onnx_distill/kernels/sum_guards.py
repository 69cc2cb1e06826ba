"""Quantizers that OpenVINO would drop, kept by a node before them that changes nothing: LeakyRelu with a slope of 1.

    Conv(x, w, b) -> Q -> DQ -> Add <- DQ <- Q <- ...
    Conv(x, w) -> LeakyRelu(alpha = 1) -> Add(b) -> Q -> DQ -> Add <- DQ <- Q <- ...

OpenVINO's CPU plugin runs such a sum, and the quantizer behind it, inside the convolution. A quantizer that is the first thing
fused behind that convolution it only clips with and does not round ("drop rounding one special residual pattern", conv.cpp; measured,
2026.4): a quarter of the sums' integers are then off by one. Where another node stands first it rounds, and still fuses all of it.
Add and Mul by constants and Clip would not do, as they are folded into the quantizer; LeakyRelu is not, and max(x, 0) + 1 * min(x, 0)
is x to the bit. The bias goes behind it, into the quantizer's shift, so that the quantizer's scale goes into the weights': without
that ResNet-50 took 1 % longer (docs/experiments.md). onnxruntime answers the same, but runs such a convolution in floats.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill.edit import fresh_name, insert_before
from onnx_distill.lookup import array, consumers, initializers, producers
from onnx_distill.placement.table import ABSORBED, PLACEMENT
from onnx_distill.qdq import Quantizer

FOLDED = frozenset(
    name for name, role in PLACEMENT.items() if role == ABSORBED
)  # into the quantizer: the Conv still counts as first


def guard_sums(model: onnx.ModelProto, quantizers: Iterable[Quantizer], taken: set[str]) -> None:
    """Put the node, in place, before the quantizer of every convolution's result that a sum with another quantized activation alone
    reads.

    A quantizer with a Clip between Q and DQ, of fewer than 8 bits, is left alone: there OpenVINO fuses no sum and drops nothing.
    taken: every name in the model, to which those of the new values are added.
    """
    made_by, readers, constants = producers(model), consumers(model), initializers(model)
    guards: dict[str, list[onnx.NodeProto]] = {}
    for q in quantizers:
        conv = _conv(q.source, made_by) if q.integers.fills_container else None
        if conv is not None and _is_only_summed(q.result, made_by, readers, constants):
            quantize = made_by[made_by[q.result].input[0]]
            alone = conv.output[0] == q.source and len(readers[q.source]) == 1
            bias = _without_bias(model, conv, made_by, constants, taken) if alone else None
            guards[quantize.output[0]] = _guard(q.source, bias, taken)
            quantize.input[0] = guards[quantize.output[0]][-1].output[0]
    insert_before(model, guards)


def _conv(value: str, made_by: dict) -> onnx.NodeProto | None:
    """The convolution that makes the value, but for what is folded."""
    node = made_by.get(value)
    while node is not None and node.op_type in FOLDED:
        node = made_by.get(node.input[0])
    return node if node is not None and node.op_type == "Conv" else None


def _is_only_summed(value: str, made_by: dict, readers: dict, constants: dict) -> bool:
    """Whether one Add alone reads the value, with another quantized activation beside it."""
    nodes = readers.get(value, [])
    if len(nodes) != 1 or nodes[0].op_type != "Add":
        return False
    others = [made_by.get(name) for name in nodes[0].input if name != value]
    return bool(others) and all(
        n is not None and n.op_type == "DequantizeLinear" and n.input[0] not in constants for n in others
    )


def _without_bias(
    model: onnx.ModelProto, conv: onnx.NodeProto, made_by: dict, constants: dict, taken: set[str]
) -> str | None:
    """Take the bias from the convolution; the name of what adds it behind: float32 [channels, 1, ...]. None: it has none, or an odd one."""
    name = conv.input[2] if len(conv.input) > 2 else ""
    node, values = made_by.get(name), None
    if name in constants:
        values = array(constants[name])
    elif node is not None and node.op_type == "DequantizeLinear" and len(node.input) == 2 and node.input[0] in constants:
        values = array(constants[node.input[0]]).astype(np.float32) * array(constants[node.input[1]])
    weights = made_by[conv.input[1]].input[0] if conv.input[1] in made_by else conv.input[1]
    if values is None or weights not in constants:
        return None
    spread = fresh_name(f"{name}/spread", taken)
    model.graph.initializer.append(
        numpy_helper.from_array(values.reshape(-1, *[1] * (len(constants[weights].dims) - 2)), spread)
    )
    del conv.input[2]
    return spread


def _guard(value: str, bias: str | None, taken: set[str]) -> list[onnx.NodeProto]:
    unchanged = fresh_name(f"{value}/unchanged", taken)
    nodes = [helper.make_node("LeakyRelu", [value], [unchanged], f"{value}/LeakyRelu", alpha=1.0)]
    if bias is not None:
        biased = fresh_name(f"{value}/biased", taken)
        nodes.append(helper.make_node("Add", [unchanged, bias], [biased], f"{value}/Bias"))
    return nodes
