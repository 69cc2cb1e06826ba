"""Gelu and Mish written out become one operator each, so that values are not rounded in their middle. The model goes to the opset
that they came with.

    x * (1 + erf(x / sqrt(2))) / 2                                              Gelu(x), opset 20
    x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2                     Gelu(x), approximate = tanh
    x * tanh(softplus(x))                                                       Mish(x), opset 18

In every order of the factors, with Div or Mul. A pass over the whole graph, because it may change the opset. Must not fire where
onnx cannot convert the model: then the parts stay, which train, and are quantized one by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import onnx

from onnx_distill.errors import InputError
from onnx_distill.normalize import opset
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import close, line, made_by, multiples, polynomial, products, same
from onnx_distill.normalize.softplus import softplus_of

CUBE = 0.044715
FORMS = {  # function: attribute of Gelu, and the coefficients of what it is a function of
    "Erf": ("none", (0.0, 1 / math.sqrt(2))),
    "Tanh": ("tanh", (0.0, math.sqrt(2 / math.pi), 0.0, CUBE * math.sqrt(2 / math.pi))),
}


class _Found(NamedTuple):
    operator: str
    x: str
    approximate: str | None
    opset: int


def rewrite(graph: Graph) -> list[str]:
    found = [known for node in graph.nodes if (known := _written_out(node, graph))]
    if not found or not _reach(max(known.opset for known in found), graph):
        return []
    done = []
    for node in graph.nodes:
        known = _written_out(node, graph)
        if known is not None:
            one = graph.node(known.operator, [known.x], node, node.output[0], approximate=known.approximate)
            graph.replace(node, [one])
            done.append(node.name or node.output[0])
    return done


def _reach(version: int, graph: Graph) -> bool:
    """Whether the model is of this opset or a later one, now."""
    if graph.opset < version:
        try:
            graph.read_in(opset.to_opset(graph.with_nodes(), version))
        except InputError:
            return False
    return True


def _written_out(node: onnx.NodeProto, graph: Graph) -> _Found | None:
    if node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    for n, p, q in products(node.output[0], graph):
        found = _gelu(n, p, q, graph) or _mish(n, p, q, graph)
        if found:
            return found
    return None


def _gelu(n: float, p: str, q: str, graph: Graph) -> _Found | None:
    """Of n * p * q, where that is one: q is (1 + function) times a number."""
    slope, value, offset = line(q, graph)
    function = made_by(value, graph, *FORMS)
    if function is None or not close(slope, offset):
        return None
    approximate, wanted = FORMS[function.op_type]
    for share, x in multiples(p, graph):
        if close(n * share * slope, 0.5) and same(polynomial(function.input[0], x, graph), *wanted):
            return _Found("Gelu", x, approximate, 20)
    return None


def _mish(n: float, x: str, gate: str, graph: Graph) -> _Found | None:
    tanh = made_by(gate, graph, "Tanh")
    fits = tanh is not None and n == 1 and softplus_of(tanh.input[0], graph) == x
    return _Found("Mish", x, None, 18) if fits else None
