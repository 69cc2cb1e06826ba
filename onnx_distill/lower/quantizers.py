"""FakeQuantize forward on the runtime's own vectorised kernels.

FakeQuantize -> QuantizeLinear, [Clip on integers,] DequantizeLinear       6 to 8 times faster than its formula

These kernels work in runs of values that have one scale. A matrix with a scale for each column has runs of one value, 15 to 30
times slower than rows: it is turned, quantized in rows, and turned back.
"""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper

from onnx_distill import qdq
from onnx_distill.edit import prune
from onnx_distill.qdq import Quantizer
from onnx_distill.trainable.fake_quant import DOMAIN, FakeQuantModel

COLUMNS = "FakeQuantizeAxis1Of2"  # of operators of matrices with a scale a column, the beginning: trainable/fake_quant.py

TURN = "ij->ji"  # not a Transpose: the runtime moves that through quantizers and back to where it began (1.19.2)


def lower_quantizers(training: onnx.ModelProto, student: FakeQuantModel) -> onnx.ModelProto:
    """A copy of the training model in which every quantizer runs on QuantizeLinear and DequantizeLinear."""
    made = onnx.ModelProto()
    made.CopyFrom(training)
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        quantizer = student.quantizers.get(node.output[0]) if node.domain == DOMAIN else None
        nodes += _runtime_nodes(node, quantizer) if quantizer else [node]
    copies = [_copy(node) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    _add_constants(made, student)
    prune(made)
    return made


def _runtime_nodes(node: onnx.NodeProto, q: Quantizer) -> list[onnx.NodeProto]:
    """Named after the student's own value: the runtime lets constants of equal content be one (ConstantSharing, 1.19.2)."""
    q = replace(q, result=node.output[0], scale=node.input[1])
    if node.op_type.startswith(COLUMNS):
        return _in_rows(node.input[0], q)
    made = qdq.nodes(q)
    made[0].input[0] = node.input[0]
    return made


def _in_rows(value: str, q: Quantizer) -> list[onnx.NodeProto]:
    turned, back = f"{q.result}/turned", f"{q.result}/in_rows"
    made = qdq.nodes(replace(q, axis=0, result=back))
    made[0].input[0] = turned
    there = helper.make_node("Einsum", [value], [turned], f"{q.result}/turn", equation=TURN)
    return [there, *made, helper.make_node("Einsum", [back], [q.result], f"{q.result}/turn_back", equation=TURN)]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _add_constants(model: onnx.ModelProto, student: FakeQuantModel) -> None:
    """Zero points and bounds, which the training model no longer holds because its formulas do not read them."""
    have = {tensor.name for tensor in model.graph.initializer}
    known = {tensor.name: tensor for tensor in student.constants}
    needed = {q.zero_point for q in student.quantizers.values()}
    needed |= {n for q in student.quantizers.values() if not q.integers.fills_container for n in qdq.bound_names(q.integers)}
    model.graph.initializer.extend(known[name] for name in sorted(needed - have))
