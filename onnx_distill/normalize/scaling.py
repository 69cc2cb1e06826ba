"""What a node does where it only scales and shifts channels, and what a chain of such nodes does in all: y = scale * x + shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

ARITHMETIC = ("Mul", "Add", "Div", "Sub")


@dataclass(frozen=True)
class Scaling:
    """y = scale * x + shift; float64 vectors, either with an element for each channel along `axis`, or with one for all."""

    scale: np.ndarray
    shift: np.ndarray
    axis: int | None

    def then(self, other: Scaling) -> Scaling | None:
        """Both in turn; None where they go along different axes."""
        if None not in (self.axis, other.axis) and self.axis != other.axis:
            return None
        axis = self.axis if other.axis is None else other.axis
        return _finite(other.scale * self.scale, other.scale * self.shift + other.shift, axis)

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())

    @property
    def scales(self) -> bool:
        return bool((self.scale != 1).any())


@dataclass(frozen=True)
class Chain:
    """Nodes, each the only reader of the one before, that scale and shift `source` into `result`."""

    nodes: list[onnx.NodeProto]
    source: str
    scaling: Scaling

    @property
    def result(self) -> str:
        return self.nodes[-1].output[0]


def chain(node: onnx.NodeProto, graph: Graph) -> Chain | None:
    """The longest chain that starts with the node; None where the node is no scaling."""
    found = scaling_of(node, graph)
    if found is None:
        return None
    (source, total), nodes = found, [node]
    while True:
        reader = graph.only_reader(nodes[-1].output[0])
        step = scaling_of(reader, graph) if reader is not None else None
        combined = total.then(step[1]) if step is not None and step[0] == nodes[-1].output[0] else None
        if reader is None or combined is None:
            return Chain(nodes, source, total)
        nodes.append(reader)
        total = combined


def scaling_of(node: onnx.NodeProto, graph: Graph) -> tuple[str, Scaling] | None:
    """What the node scales, and how; None where it does anything else."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "BatchNormalization":
        found = _of_statistics(node, graph)
        return None if found is None else (node.input[0], found)
    return _of_arithmetic(node, graph) if node.op_type in ARITHMETIC else None


def _of_statistics(node: onnx.NodeProto, graph: Graph) -> Scaling | None:
    """gain * (x - mean) / sqrt(variance + epsilon) + bias, along axis 1."""
    known = [_floats(name, graph) for name in node.input[1:5]]
    if attribute(node, "training_mode", 0) or any(graph.is_used(name) for name in node.output[1:]):
        return None
    if any(array is None or array.ndim != 1 for array in known):
        return None
    gain, bias, mean, variance = (np.asarray(array) for array in known)
    with np.errstate(all="ignore"):
        scale = gain / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return _finite(scale, bias - mean * scale, 1)


def _of_arithmetic(node: onnx.NodeProto, graph: Graph) -> tuple[str, Scaling] | None:
    places = [place for place in (0, 1) if graph.is_constant(node.input[place])]
    if len(places) != 1 or (node.op_type == "Div" and places == [0]):
        return None
    source = node.input[1 - places[0]]
    found = _per_channel(node.input[places[0]], source, graph)
    if found is None:
        return None
    values, axis = found
    one, zero = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        made = {
            "Mul": lambda: (values, zero),
            "Div": lambda: (one / values, zero),
            "Add": lambda: (one, values),
            "Sub": lambda: (one, -values) if places == [1] else (-one, values),
        }[node.op_type]()
    known = _finite(*made, axis)
    return None if known is None else (source, known)


def _per_channel(constant: str, source: str, graph: Graph) -> tuple[np.ndarray, int | None] | None:
    """The constant as a vector, and the axis of `source` along which it varies; None where that is more than one, or where it
    would make more of `source` than there is."""
    dims, shape = graph.shape(constant) or (), graph.shape(source)
    varying = [place for place, size in enumerate(dims) if size != 1]
    if len(varying) > 1 or (shape is None and dims) or (shape is not None and len(dims) > len(shape)):
        return None
    axis = varying[0] - len(dims) + len(shape or ()) if varying else None
    if axis is not None and (shape is None or shape[axis] != dims[varying[0]]):
        return None
    values = _floats(constant, graph)
    return None if values is None else (values.reshape(-1), axis)


def _floats(name: str, graph: Graph) -> np.ndarray | None:
    """An initializer of float32, as float64."""
    tensor = graph.tensor(name)
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return np.asarray(graph.constant(name)).astype(np.float64)


def _finite(scale: np.ndarray, shift: np.ndarray, axis: int | None) -> Scaling | None:
    """None where a number is none, or beyond float32."""
    most = np.finfo(np.float32).max
    return Scaling(scale, shift, axis) if (np.abs(scale) <= most).all() and (np.abs(shift) <= most).all() else None
