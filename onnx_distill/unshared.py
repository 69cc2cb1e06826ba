"""Stored weights that several nodes read become one copy for each of them, so that an exact session can be opened.

With `session.x64quantprecision` onnxruntime writes int8 weights and their zero points anew as uint8, once for every node that
reads them, each time under the same name, and refuses to load where there are two (1.19.2). Only sessions of our own want this:
a file keeps one copy.
"""

from __future__ import annotations

from collections import Counter

import onnx

from onnx_distill.model import fresh_name, initializers, names


def with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every reader of stored int8 weights has its own; the model itself where none are shared.

    It computes the same: a DequantizeLinear of the same integers for each reader.
    """
    stored = _dequantized(model)
    reads = Counter(t for node in model.graph.node for name in node.input if name in stored for t in _tensors(stored[name]))
    if max(reads.values(), default=0) < 2:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    stored, taken = _dequantized(made), names(made)
    seen: set[str] = set()
    own: list[onnx.NodeProto] = []
    for node in made.graph.node:
        for position, name in enumerate(node.input):
            if name in stored and seen.isdisjoint(_tensors(stored[name])):
                seen.update(_tensors(stored[name]))
            elif name in stored:
                own.append(_copy(made, stored[name], taken))
                node.input[position] = own[-1].output[0]
    for node in own:
        made.graph.node.insert(0, node)
    return made


def _dequantized(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Result -> the DequantizeLinear that makes it from int8 weights."""
    weights = {name for name, tensor in initializers(model).items() if tensor.data_type == onnx.TensorProto.INT8}
    return {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights}


def _tensors(dequantize: onnx.NodeProto) -> list[str]:
    """Its integers and their zero point."""
    return [name for name in (dequantize.input[0], *dequantize.input[2:]) if name]


def _copy(model: onnx.ModelProto, dequantize: onnx.NodeProto, taken: set[str]) -> onnx.NodeProto:
    """The node again, under new names, with tensors of its own, which are added to the model."""
    node = onnx.NodeProto()
    node.CopyFrom(dequantize)
    for position, name in enumerate(node.input):
        if name in _tensors(dequantize):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(initializers(model)[name])
            tensor.name = node.input[position] = fresh_name(name, taken)
            model.graph.initializer.append(tensor)
    node.name = node.output[0] = fresh_name(dequantize.output[0], taken)
    return node
