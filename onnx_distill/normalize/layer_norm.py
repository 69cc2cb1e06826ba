"""LayerNormalization written out, as exporters before opset 17 do, becomes one operator, which has a right gradient and is fast.

    (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) [* scale] [+ bias]        LayerNormalization(x, scale, bias)

mean over the last axes; the square by Mul or Pow, the root by Sqrt or Pow, the quotient by Div or Reciprocal and Mul. Without a scale
there is one of ones. Must not fire before opset 17, over other axes, on a scale or bias that is computed or of another shape
than the normalized axes, or where the size of those is not known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.match import made_by, with_number

OPS = ("Add", "Mul", "Div")


class _Normalized(NamedTuple):
    x: str
    axis: int  # the first of the normalized ones
    sizes: tuple[int, ...]
    epsilon: float


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    value, bias = _without_constant(node.output[0], "Add", graph)
    value, scale = _without_constant(value, "Mul", graph)
    found = _normalized(value, graph) if graph.opset >= 17 else None
    if found is None or _goes_on(node, found, bool(bias), bool(scale), graph):
        return None
    if not all(_fits(name, found, graph) for name in (bias, scale) if name):
        return None
    inputs = [found.x, _shaped(scale, np.ones(found.sizes, np.float32), node, graph)]
    inputs += [_shaped(bias, np.zeros(found.sizes, np.float32), node, graph)] if bias else []
    return [graph.node("LayerNormalization", inputs, node, node.output[0], axis=found.axis, epsilon=found.epsilon)]


def _without_constant(value: str, operator: str, graph: Graph) -> tuple[str, str]:
    """(the other input, the constant one) of the node that makes the value, or (value, '') where it is none such."""
    node = made_by(value, graph, operator)
    for other, constant in ((0, 1), (1, 0)) if node is not None else ():
        if node is not None and graph.is_constant(node.input[constant]):
            return node.input[other], node.input[constant]
    return value, ""


def _goes_on(node: onnx.NodeProto, found: _Normalized, bias: bool, scale: bool, graph: Graph) -> bool:
    """Whether the node's only reader is the scale or bias: then that is where the pattern ends."""
    reader = graph.only_reader(node.output[0])
    wanted = [] if bias else ["Add"] if scale else ["Add", "Mul"]
    if reader is None or reader.op_type not in wanted:
        return False
    return any(graph.is_constant(name) and _fits(name, found, graph) for name in reader.input)


def _fits(name: str, found: _Normalized, graph: Graph) -> bool:
    """Whether the constant's shape is that of the normalized axes, ones before it aside."""
    shape = graph.shape(name) or ()
    leading = len(shape) - len(found.sizes)
    return leading >= 0 and shape[leading:] == found.sizes and all(size == 1 for size in shape[:leading])


def _shaped(name: str, otherwise: np.ndarray, node: onnx.NodeProto, graph: Graph) -> str:
    if name and graph.shape(name) == otherwise.shape:
        return name
    values = graph.constant(name) if name else otherwise
    assert values is not None  # _fits looked at its shape
    return graph.add_constant(values.reshape(otherwise.shape), name or f"{node.output[0]}/scale")


def _normalized(value: str, graph: Graph) -> _Normalized | None:
    """What is normalized where the value is (x - mean) / sqrt(variance + epsilon)."""
    for centred, spread in _quotients(value, graph):
        variance = _shifted(spread, graph)
        squares = _mean_of(variance[0], graph) if variance is not None else None
        if variance is None or squares is None or not _is_square(squares[0], centred, graph):
            continue
        x = _centred(centred, graph)
        if x is not None and x[1] == squares[1]:
            axes = _last_axes(x[1], x[0], graph)
            return _Normalized(x[0], axes[0], axes[1], variance[1]) if axes is not None else None
    return None


def _quotients(value: str, graph: Graph) -> list[tuple[str, str]]:
    """(p, q) for each way to read the value as p / sqrt(q)."""
    node = made_by(value, graph, "Div", "Mul")
    if node is None:
        return []
    pairs = [(node.input[0], node.input[1])] + ([(node.input[1], node.input[0])] if node.op_type == "Mul" else [])
    found = []
    for p, divisor in pairs:
        inverse = made_by(divisor, graph, "Reciprocal") if node.op_type == "Mul" else None
        divisor = inverse.input[0] if inverse is not None else divisor
        root, power = made_by(divisor, graph, "Sqrt"), made_by(divisor, graph, "Pow")
        upright = node.op_type == "Div" or inverse is not None
        if root is not None and upright:
            found.append((p, root.input[0]))
        if power is not None and graph.scalar(power.input[1]) == (0.5 if upright else -0.5):
            found.append((p, power.input[0]))
    return found


def _shifted(value: str, graph: Graph) -> tuple[str, float] | None:
    """(variance, epsilon) of their sum."""
    node = made_by(value, graph, "Add")
    found = with_number(node, graph) if node is not None else None
    return None if found is None or found[1] < 0 else found[:2]


def _mean_of(value: str, graph: Graph) -> tuple[str, tuple[int, ...]] | None:
    """(what is averaged, over which axes) by a ReduceMean that keeps them."""
    node = made_by(value, graph, "ReduceMean")
    if node is None or not attribute(node, "keepdims", 1):
        return None
    given = graph.constant(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", None)
    rank = graph.rank(node.input[0])
    if given is None or rank is None:
        return None
    return node.input[0], tuple(sorted(int(axis) % rank for axis in np.reshape(given, -1)))


def _is_square(value: str, of: str, graph: Graph) -> bool:
    node = made_by(value, graph, "Mul", "Pow")
    if node is None:
        return False
    base = [node.input[0]] if node.op_type == "Pow" and graph.scalar(node.input[1]) == 2 else list(node.input)
    x = _centred(of, graph)
    return all(name == of or (x is not None and _centred(name, graph) == x) for name in base)


def _centred(value: str, graph: Graph) -> tuple[str, tuple[int, ...]] | None:
    """(x, axes) where the value is x minus its mean over axes."""
    node = made_by(value, graph, "Sub")
    mean = _mean_of(node.input[1], graph) if node is not None else None
    return mean if node is not None and mean is not None and mean[0] == node.input[0] else None


def _last_axes(axes: tuple[int, ...], x: str, graph: Graph) -> tuple[int, tuple[int, ...]] | None:
    """(the first of the axes counted from the end, their sizes) where they are the last ones."""
    rank = graph.rank(x)
    if rank is None or not axes or axes != tuple(range(rank - len(axes), rank)):
        return None
    sizes = graph.sizes(x, axes)
    return None if sizes is None else (-len(axes), sizes)
