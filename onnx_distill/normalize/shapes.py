"""Arithmetic on shapes becomes constants; the batch, where it is free, stays free.

The graph is traced at two batch sizes. What is the same at both, and comes from shapes or is of whole numbers, becomes an
initializer; an If whose condition is among it becomes its branch. The shape of a Reshape that differs gets a 0 or -1 where the
batch is, and a Resize to sizes goes by scales. Another vector of whole numbers that are constant or a multiple of the batch is made anew from the images' shape, by as
few nodes as that takes (for Expand, Slice, Range, ConstantOfShape). Anything else is left as it is.
Must not fire where height or width are free, or where there are several inputs: then no shape is known.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import onnx

from onnx_distill.facts.logits import label
from onnx_distill.lookup import attribute, data_inputs, shape_of
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.resize import by_scales
from onnx_distill.normalize.trace import Trace, walk

Shape = Optional[Tuple[int, ...]]
FIRST, SECOND = 5, 7  # batch sizes, in which no graph takes an interest of its own
MEASURING = ("Shape", "Size")
CANONICAL = frozenset(["Shape", "Concat", "Mul", "Squeeze"])


def rewrite(graph: Graph) -> list[str]:
    inputs = data_inputs(graph.model)
    if len(inputs) != 1 or not any(isinstance(size, int) for size in shape_of(inputs[0])[1:]):
        return []
    fixed = shape_of(inputs[0])[0]
    one, two = (Trace(graph, fixed if isinstance(fixed, int) else size) for size in (FIRST, SECOND))
    done = walk(graph, [one, two])
    for fold in (_fold_reshape, _fold_gather, _fold_resize):
        done += [label(node) for node in graph.nodes if fold(node, graph, one, two)]
    measured = _measured(graph)
    done += [label(node) for node in graph.nodes if _fold(node, measured, graph, one, two)]
    return done + [label(node) for node in graph.nodes if _renew(node, inputs[0].name, graph, one, two)]


def _fold_reshape(node: onnx.NodeProto, graph: Graph, one: Trace, two: Trace) -> bool:
    if node.op_type != "Reshape" or graph.is_constant(node.input[1]) or attribute(node, "allowzero", 0):
        return False
    return _put_reshape(node, graph, one, two)


def _fold_gather(node: onnx.NodeProto, graph: Graph, one: Trace, two: Trace) -> bool:
    """A Gather that takes every row in its order (x[arange(batch)], as torch writes a pooled mean) only reshapes."""
    if node.op_type != "Gather" or attribute(node, "axis", 0) != 0 or graph.is_constant(node.input[1]):
        return False
    rows = [(trace.contents.get(node.input[1]), trace.shape(node.input[0])) for trace in (one, two)]
    if any(row is None or not shape or not np.array_equal(row.reshape(-1), np.arange(shape[0])) for row, shape in rows):
        return False
    return _put_reshape(node, graph, one, two)


def _fold_resize(node: onnx.NodeProto, graph: Graph, one: Trace, two: Trace) -> bool:
    """A Resize to computed sizes goes by constant scales, the same at both batch sizes."""
    if node.op_type != "Resize" or len(node.input) < 4 or graph.is_constant(node.input[3]):
        return False
    read, made = one.shape(node.input[0]), one.shape(node.output[0])
    again, made_again = two.shape(node.input[0]), two.shape(node.output[0])
    if read is None or made is None or again is None or made_again is None:
        return False
    same = read[1:] == again[1:] and made[1:] == made_again[1:] and again[0] == made_again[0]
    new = by_scales(node, read, made, graph) if same else None
    if new is not None:
        graph.replace(node, [new])
    return new is not None


def _put_reshape(node: onnx.NodeProto, graph: Graph, one: Trace, two: Trace) -> bool:
    reads, makes = [[trace.shape(name) for trace in (one, two)] for name in (node.input[0], node.output[0])]
    shape = reshape_to(*reads, *makes)
    if shape is not None:
        constant = graph.add_constant(np.asarray(shape, np.int64), f"{label(node)}/shape")
        graph.replace(node, [graph.node("Reshape", [node.input[0], constant], node, node.output[0])])
    return shape is not None


def reshape_to(read: Shape, read_too: Shape, made: Shape, made_too: Shape) -> list[int] | None:
    """The constant shape of a Reshape that makes `made` of `read` at one batch size and `made_too` of `read_too` at another.

    0 where the output keeps the size of that axis, -1 where the batch is part of another; None where no constant shape can.
    """
    if read is None or read_too is None or made is None or made_too is None or len(made) != len(made_too):
        return None
    shape = list(made)
    for axis, sizes in enumerate(zip(made, made_too)):
        if sizes[0] != sizes[1]:
            shape[axis] = 0 if axis < len(read) and (read[axis], read_too[axis]) == sizes else -1
    return shape if shape.count(-1) <= 1 and all(made) else None


def _measured(graph: Graph) -> set[str]:
    """Every value that comes out of a shape."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op_type in MEASURING or found.intersection(node.input):
            found.update(node.output)
    return found


def _fold(node: onnx.NodeProto, measured: set[str], graph: Graph, one: Trace, two: Trace) -> bool:
    """Make the outputs initializers, where they are the same at both batch sizes."""
    outputs = [name for name in node.output if graph.is_used(name)]
    if not outputs or graph.outputs.intersection(outputs) or not all(_is_constant(name, one, two) for name in outputs):
        return False
    if not all(name in measured or one.contents[name].dtype.kind in "iub" for name in outputs):
        return False
    graph.replace(node, [])
    for name in outputs:
        graph.add_tensor(onnx.numpy_helper.from_array(one.contents[name]), name)
    return True


def _is_constant(value: str, one: Trace, two: Trace) -> bool:
    a, b = one.contents.get(value), two.contents.get(value)
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def _renew(node: onnx.NodeProto, images: str, graph: Graph, one: Trace, two: Trace) -> bool:
    """Make the one output anew from the images' shape, where it is a vector of multiples of the batch and is put to use."""
    if len(node.output) != 1 or graph.opset < 15 or _is_canonical(node, graph):
        return False
    value = node.output[0]
    multiples = _multiples(value, one, two)
    readers = graph.readers(value)
    used = any(len(reader.output) != 1 or _multiples(reader.output[0], one, two) is None for reader in readers)
    if multiples is None or not used or value in graph.outputs:
        return False
    graph.replace(node, _vector(multiples, one.contents[value], images, node, graph))
    return True


def _is_canonical(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether it is a shape as it stands, or what `_vector` makes."""
    if node.op_type == "Shape":
        return True
    made_by = [graph.producer(name) for name in node.input]
    return node.op_type in CANONICAL and all(other is None or _is_canonical(other, graph) for other in made_by)


def _multiples(value: str, one: Trace, two: Trace) -> np.ndarray | None:
    """For each element of a value of whole numbers, rank 0 or 1, how many times the batch it is; 0 where it is a constant."""
    a, b = one.contents.get(value), two.contents.get(value)
    if a is None or b is None or a.dtype != np.int64 or a.shape != b.shape or a.ndim > 1 or one.batch == two.batch:
        return None
    times = np.where(a == b, 0, a // one.batch)
    return times if ((a == b) | ((times * one.batch == a) & (times * two.batch == b))).all() and times.any() else None


def _vector(times: np.ndarray, values: np.ndarray, images: str, node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    """Nodes that make the value of `node` again."""
    batch = graph.node("Shape", [images], node, start=0, end=1)
    nodes, parts = [batch], []
    for many, constant in zip(times.reshape(-1), values.reshape(-1)):
        part = batch.output[0]
        if many == 0:
            part = graph.add_constant(np.array([constant], np.int64), f"{label(node)}/size")
        elif many != 1:
            factor = graph.add_constant(np.array([many], np.int64), f"{label(node)}/times")
            nodes.append(graph.node("Mul", [part, factor], node))
            part = nodes[-1].output[0]
        parts.append(part)
    if len(parts) > 1:
        nodes.append(graph.node("Concat", parts, node, axis=0))
    if times.ndim == 0:
        nodes.append(graph.node("Squeeze", [nodes[-1].output[0]], node))
    nodes[-1].output[0] = node.output[0]
    return nodes
