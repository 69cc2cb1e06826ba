"""Quantizers that OpenVINO would drop, kept by a node before them that changes nothing: LeakyRelu with a slope of 1.

    Conv -> Q -> DQ -> Add <- DQ <- Q <- ...            becomes            Conv -> LeakyRelu(alpha = 1) -> Q -> DQ -> Add <- ...

OpenVINO's CPU plugin runs such a sum, and the quantizer behind it, inside the convolution. A quantizer that is the first thing
fused behind that convolution it only clips with and does not round ("drop rounding one special residual pattern", conv.cpp; measured,
2026.4): a quarter of the sums' integers are then off by one. Where another node stands first it rounds, and still fuses all of it.
Add and Mul by constants and Clip would not do, as they are folded into the quantizer; LeakyRelu is not, and max(x, 0) + 1 * min(x, 0)
is x to the bit. onnxruntime answers the same, but runs a convolution with that node behind it in floats.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from onnx_distill.edit import fresh_name
from onnx_distill.lookup import consumers, initializers, producers
from onnx_distill.placement_table import ABSORBED, PLACEMENT
from onnx_distill.qdq import Quantizer

FOLDED = frozenset(
    name for name, role in PLACEMENT.items() if role == ABSORBED
)  # into the quantizer: the Conv still counts as first


def guard_sums(model: onnx.ModelProto, quantizers: Iterable[Quantizer], taken: set[str]) -> None:
    """Put the node, in place, before the quantizer of every convolution's result that one sum of activations alone reads.

    A quantizer with a Clip between Q and DQ, of fewer than 8 bits, is left alone: there OpenVINO fuses no sum and drops nothing.
    taken: every name in the model, to which those of the new values are added.
    """
    made_by, readers, constants = producers(model), consumers(model), initializers(model)
    guards: dict[str, onnx.NodeProto] = {}
    for q in quantizers:
        convolved = q.integers.fills_container and _behind_conv(q.source, made_by)
        if convolved and _is_only_summed(q.result, made_by, readers, constants):
            quantize, value = made_by[made_by[q.result].input[0]], fresh_name(f"{q.source}/unchanged", taken)
            guards[quantize.output[0]] = helper.make_node(
                "LeakyRelu", [q.source], [value], f"{q.source}/LeakyRelu", alpha=1.0
            )
            quantize.input[0] = value
    _insert(model, guards)


def _is_only_summed(value: str, made_by: dict, readers: dict, constants: dict) -> bool:
    """Whether one Add alone reads the value, with another activation beside it."""
    nodes = readers.get(value, [])
    if len(nodes) != 1 or nodes[0].op_type != "Add":
        return False
    others = [made_by[name].input[0] for name in nodes[0].input if name != value and name in made_by]
    return bool(others) and not constants.keys() & set(others)


def _behind_conv(value: str, made_by: dict) -> bool:
    node = made_by.get(value)
    while node is not None and node.op_type in FOLDED:
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Conv"


def _insert(model: onnx.ModelProto, before: dict[str, onnx.NodeProto]) -> None:
    """The nodes, each in front of the one that makes the value that it has in the table."""
    for position in reversed(range(len(model.graph.node))):
        guard = before.get(model.graph.node[position].output[0])
        if guard is not None:
            model.graph.node.insert(position, guard)
