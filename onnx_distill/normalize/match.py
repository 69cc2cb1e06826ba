"""What a value is in terms of another, however an exporter wrote it: a number times it, a line in it, a polynomial in it."""

from __future__ import annotations

import math
from typing import Iterator, NamedTuple

import numpy as np
import onnx

from onnx_distill.normalize.graph import Graph

CLOSE = 1e-5  # relative, of constants: exporters round 1 / sqrt(2) and 1 / 6 to six digits at worst
DEEPEST = 12  # nodes in a row that are followed; the longest pattern, a Gelu by tanh, has eight


class Line(NamedTuple):
    """slope * value + offset."""

    slope: float
    value: str
    offset: float


def close(found: float, wanted: float) -> bool:
    return math.isclose(found, wanted, rel_tol=CLOSE, abs_tol=CLOSE * 1e-3)


def made_by(value: str, graph: Graph, *operators: str) -> onnx.NodeProto | None:
    """The node that makes the value, if it is one of these operators of ONNX's own."""
    node = graph.producer(value)
    return node if node is not None and node.op_type in operators and node.domain in ("", "ai.onnx") else None


def number(value: str, graph: Graph, beside: str) -> float | None:
    """A constant of one element that does not give `beside`, which it is combined with, more axes."""
    found, rank = graph.scalar(value), graph.rank(beside)
    if found is None or graph.dtype(value) != onnx.TensorProto.FLOAT:
        return None
    axes = len(graph.shape(value) or ())
    return found if axes == 0 or (rank is not None and axes <= rank) else None


def with_number(node: onnx.NodeProto, graph: Graph) -> tuple[str, float, bool] | None:
    """(value, number, whether the number comes second) of a node with two inputs, one of which is a number."""
    a, b = node.input[0], node.input[1]
    second, first = number(b, graph, a), number(a, graph, b)
    if second is not None:
        return a, second, True
    return (b, first, False) if first is not None else None


def _step(value: str, graph: Graph) -> Line | None:
    """One node up, where that is a line."""
    node = made_by(value, graph, "Mul", "Div", "Add", "Sub", "Neg")
    if node is None or node.op_type == "Neg":
        return None if node is None else Line(-1.0, node.input[0], 0.0)
    found = with_number(node, graph)
    if found is None:
        return None
    other, n, second = found
    if node.op_type in ("Add", "Mul"):
        return Line(1.0, other, n) if node.op_type == "Add" else Line(n, other, 0.0)
    if node.op_type == "Sub":
        return Line(1.0, other, -n) if second else Line(-1.0, other, n)
    return Line(1 / n, other, 0.0) if second and n else None


def lines(value: str, graph: Graph) -> Iterator[Line]:
    """The value as itself, then as lines in what it is computed from, as far up as Mul, Div, Add, Sub and Neg with numbers go."""
    step: Line | None = Line(1.0, value, 0.0)
    slope, offset = 1.0, 0.0
    for _ in range(DEEPEST):
        if step is None:
            return
        slope, offset = slope * step.slope, offset + slope * step.offset
        yield Line(slope, step.value, offset)
        step = _step(step.value, graph)


def line(value: str, graph: Graph) -> Line:
    """The farthest of lines."""
    return list(lines(value, graph))[-1]


def multiples(value: str, graph: Graph) -> Iterator[tuple[float, str]]:
    """(n, v) for every v that the value is n times of, itself first."""
    for found in lines(value, graph):
        if found.offset != 0:
            return
        yield found.slope, found.value


def products(value: str, graph: Graph) -> Iterator[tuple[float, str, str]]:
    """(n, p, q) where the value is n * p * q, in both orders."""
    for n, factor in multiples(value, graph):
        node = made_by(factor, graph, "Mul")
        if node is not None and with_number(node, graph) is None:
            yield n, node.input[0], node.input[1]
            yield n, node.input[1], node.input[0]


def polynomial(value: str, x: str, graph: Graph, deep: int = DEEPEST) -> np.ndarray | None:
    """Coefficients, lowest first, of the value as a polynomial in x; None where it is none."""
    if value == x:
        return np.array([0.0, 1.0])
    constant = number(value, graph, x)
    if constant is not None:
        return np.array([constant])
    node = made_by(value, graph, "Mul", "Div", "Add", "Sub", "Neg", "Pow") if deep else None
    parts = [polynomial(name, x, graph, deep - 1) for name in node.input] if node is not None else [None]
    if node is None or any(part is None for part in parts):
        return None
    return _combined(node.op_type, [part for part in parts if part is not None])


def _combined(operator: str, parts: list[np.ndarray]) -> np.ndarray | None:
    if operator == "Neg":
        return -parts[0]
    left, right = parts
    if operator in ("Add", "Sub"):
        return np.polynomial.polynomial.polyadd(left, right if operator == "Add" else -right)
    if operator == "Mul":
        return np.polynomial.polynomial.polymul(left, right)
    if len(right) != 1 or right[0] == 0:
        return None
    if operator == "Div":
        return left / right[0]
    return np.polynomial.polynomial.polypow(left, int(right[0])) if right[0] in (1, 2, 3) else None


def same(found: np.ndarray | None, *wanted: float) -> bool:
    """Whether the coefficients are these, the lowest first."""
    if found is None:
        return False
    longer = max(len(found), len(wanted))
    pairs = zip(np.pad(found, (0, longer - len(found))), np.pad(wanted, (0, longer - len(wanted))))
    return all(close(float(a), float(b)) for a, b in pairs)
