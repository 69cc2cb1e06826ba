"""graph.py: which of the nodes that join activations run in integers, and which results of a MatMul stay floats."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import CONV, FEATURES, net

from onnx_distill.config import QuantizeConfig
from onnx_distill.placement.graph import Graph
from onnx_distill.quantize import with_quantizable_opset

EIGHTS = np.linspace(0.5, 1.2, 8, dtype=np.float32)
END = " y = Conv(z, w3, b3)"
DEEP = CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) "
TWO = "m = MatMul(l, left) n = MatMul(l, right) "
JOINS = {  # nodes, operators among the joining ones that run in integers
    "shortcut of convolutions": (DEEP + "z = Add(a, c)" + END, "Add"),
    "chain of them": (DEEP + "s = Add(a, c) r = Relu(s) t = Concat<axis = 2>(r, c) z = Mul(t, half)" + END, "Add Concat Mul"),
    "behind layout operators": (DEEP + "t = Transpose<perm = [0, 1, 3, 2]>(a) z = Add(t, c)" + END, "Add"),
    "in front of layout operators": (DEEP + "s = Add(a, c) t = Transpose<perm = [0, 1, 3, 2]>(s) z = Relu(t)" + END, ""),
    "swish": (CONV + "s = Sigmoid(a) z = Mul(a, s)" + END, "Sigmoid Mul"),
    "gate": (CONV + "g = GlobalAveragePool(a) c = Conv(g, point) s = Sigmoid(c) z = Mul(a, s)" + END, "GlobalAveragePool Sigmoid Mul"),
    "gate of floats, spread over integers": (CONV + "g = GlobalAveragePool(a) s = Tanh(g) z = Mul(s, a)" + END, "GlobalAveragePool Mul"),
    "gate of integers, spread over floats": (CONV + "g = GlobalAveragePool(a) t = Tanh(a) z = Mul(t, g)" + END, "GlobalAveragePool"),
    "what a weighted operator reads anyway": (CONV + "t = Tanh(a) c = Conv<pads = [1, 1, 1, 1]>(t, w2, b2) z = Add(t, c)" + END, "Add"),
    "shortcut of floats": (CONV + "t = Tanh(a) z = Add(a, t)" + END, ""),
    "pool of floats": (CONV + "t = Tanh(a) z = GlobalAveragePool(t)" + END, ""),
    "pool in front of floats": (CONV + "g = GlobalAveragePool(a) y = Tanh(g)", "GlobalAveragePool"),
    "in front of floats": (DEEP + "s = Add(a, c) z = Tanh(s)" + END, ""),
    "at the end": (DEEP + "y = Add(a, c)", ""),
    "the image's own arithmetic": ("m = Mul(x, half) s = Add(m, six) y = Conv(s, w, b)", ""),
    "a vector": (CONV + "m = Mul(a, gain) z = Add(m, half)" + END, ""),
    "bias and shortcut of MatMuls": (CONV + "l = LayerNormalization(a, e) " + TWO + "s = Add(m, e) z = Add(s, n)" + END, ""),
    "Gelu in parts": (CONV + "h = Mul(a, half) e1 = Erf(h) o = Add(e1, six) p = Mul(o, a) z = Mul(p, half)" + END, ""),
}  # fmt: skip
RESULTS = {  # nodes, whether m = MatMul(...) is quantized
    "read by an integer operator": ("m = MatMul(a, left) y = Conv(m, w2, b2)", True),
    "through a Relu": ("m = MatMul(a, left) r = Relu(m) y = Conv(r, w2, b2)", False),
    "through layout operators": ("m = MatMul(a, left) r = Reshape(m, rows) y = Conv(r, w2, b2)", True),
    "read by floats": ("m = MatMul(a, left) y = Softmax(m)", False),
    "read by both": ("m = MatMul(a, left) s = Softmax(m) y = MatMul(s, m)", True),
    "the end": ("m = MatMul(a, left) y = Reshape(m, rows)", True),
    "of matrices, in front of an Add": ("r = Flatten(a) m = MatMul(r, f) s = Add(m, fb) y = Tanh(s)", True),
    "of matrices, in front of others": ("r = Flatten(a) m = MatMul(r, f) y = Tanh(m)", False),
}


def graph_of(body: str) -> Graph:
    model = net(body, FEATURES, **({"e": EIGHTS} if ", e)" in body else {}))
    return Graph(with_quantizable_opset(model), QuantizeConfig())


@pytest.mark.parametrize(("body", "wanted"), JOINS.values(), ids=JOINS)
def test_joining_nodes_run_in_integers_where_that_saves_conversions(body, wanted):
    graph = graph_of(body)
    assert " ".join(node.op_type for node in graph.model.graph.node if id(node) in graph.joining) == wanted


@pytest.mark.parametrize(("body", "wanted"), RESULTS.values(), ids=RESULTS)
def test_a_matmul_hands_out_floats_unless_integers_are_taken(body, wanted):
    graph = graph_of(CONV + body)
    assert ("m" in {value for node in graph.model.graph.node for value in graph.touched(node)}) == wanted
