"""A model without the values of its weights, which shape inference and conversions never read, and the way back."""

from __future__ import annotations

import math
from typing import Iterable

import onnx

from onnx_distill.lookup import attribute

SMALL = 1024  # elements; shape inference reads the contents of small initializers (shapes, axes) and never of larger ones


def without_weights(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """A copy whose tensors of more than SMALL elements have no values: all that shape inference and conversions read.

    nodes: those it has in place of the model's own.
    """
    made = onnx.ModelProto()
    _copy_fields(model, made, ("graph",))
    _copy_fields(model.graph, made.graph, ("initializer", "node"))
    for tensor in model.graph.initializer:
        made.graph.initializer.append(tensor if math.prod(tensor.dims) <= SMALL else _emptied(tensor))
    for node in model.graph.node if nodes is None else nodes:
        _add_node(made.graph, node)
    return made


def _copy_fields(source, target, but: tuple[str, ...]) -> None:
    for field, value in source.ListFields():
        if field.name not in but:
            is_repeated = hasattr(value, "extend")
            getattr(target, field.name).extend(value) if is_repeated else setattr(target, field.name, value)


def _emptied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _add_node(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    held = node.attribute[0].t if node.op_type == "Constant" and len(node.attribute) == 1 else None
    if held is None or math.prod(held.dims) <= SMALL:
        graph.node.append(node)
    else:
        _copy_fields(node, graph.node.add(), ("attribute",))
        graph.node[-1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=_emptied(held))


def take_nodes(model: onnx.ModelProto, changed: onnx.ModelProto) -> None:
    """Give the model, in place, the nodes, functions, opsets and new initializers of a changed copy made `without_weights`."""
    weights = {t.name: t for t in model.graph.initializer}
    held = {node.output[0]: attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    held = {name: tensor for name, tensor in held.items() if tensor is not None and math.prod(tensor.dims) > SMALL}
    for tensor in changed.graph.initializer:
        if tensor.name not in weights:
            model.graph.initializer.append(tensor)
    for node in changed.graph.node:
        if node.op_type == "Constant" and node.output[0] in held:
            node.attribute[0].t.CopyFrom(held[node.output[0]])
    _set(model.graph.node, changed.graph.node)
    _set(model.functions, changed.functions)
    _set(model.opset_import, changed.opset_import)


def _set(repeated, items) -> None:
    del repeated[:]
    repeated.extend(items)
