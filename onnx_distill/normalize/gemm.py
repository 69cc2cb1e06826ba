"""A MatMul of rows and the Add of its bias become a Gemm; alpha and beta of a Gemm go into its weight and bias, transA before it.

The integer kernel adds a Gemm's bias for free, where Add would be an operator of its own between two more quantizers; and it takes
neither alpha, beta nor transA. Must not fire where weight or bias are computed, shared with another value in between, or of another
shape than [inputs, outputs] and [outputs]; nor where what is multiplied is no matrix.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Gemm", "Add")


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    return _plain(node, graph) if node.op_type == "Gemm" else _joined(node, graph)


def _joined(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    for product, bias in (node.input, node.input[::-1]):
        made_by = graph.producer(product)
        if made_by is None or made_by.op_type != "MatMul" or graph.only_reader(product) is not node:
            continue
        weight, added = graph.tensor(made_by.input[1]), graph.tensor(bias)
        if weight is None or added is None or len(weight.dims) != 2 or graph.rank(made_by.input[0]) != 2:
            continue
        if list(added.dims) in ([weight.dims[1]], [1, weight.dims[1]]) and weight.data_type == onnx.TensorProto.FLOAT:
            vector = (
                bias
                if len(added.dims) == 1
                else graph.set_constant(bias, np.asarray(graph.constant(bias)).reshape(-1), node)
            )
            graph.replace(made_by, [])
            return [graph.node("Gemm", [*made_by.input, vector], made_by, node.output[0])]
    return None


def _plain(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    inputs, scaled = list(node.input), [(1, alpha), *([(2, beta)] if len(node.input) > 2 and node.input[2] else [])]
    wanted = [(place, factor) for place, factor in scaled if factor != 1]
    is_turned = bool(attribute(node, "transA", 0))
    if any(not _is_float(inputs[place], graph) or inputs.count(inputs[place]) > 1 for place, _ in wanted):
        return None
    if not (wanted or is_turned or beta != 1):
        return None
    for place, factor in wanted:
        content = np.asarray(graph.constant(inputs[place]))
        inputs[place] = graph.set_constant(inputs[place], content * np.float32(factor), node)
    turned = [graph.node("Transpose", inputs[:1], node, perm=[1, 0])] if is_turned else []
    inputs[0] = turned[0].output[0] if turned else inputs[0]
    return [*turned, graph.changed(node, inputs, alpha=None, beta=None, transA=None)]


def _is_float(name: str, graph: Graph) -> bool:
    tensor = graph.tensor(name)
    return tensor is not None and tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > 0
