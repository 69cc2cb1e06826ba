"""Look-ups in a model: values, who makes and who reads them, initializers, attributes, shapes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill.errors import InputError

QUANTIZED_OPS = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger QGemm QAttention "
    "MatMulNBits DynamicQuantizeMatMul MatMulIntegerToFloat".split()
)


def opset(model: onnx.ModelProto) -> int:
    """Version of the default ONNX operator set that the model imports; 0 if it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """A writable copy of the tensor's values."""
    return np.array(numpy_helper.to_array(tensor))


def data_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not initializers."""
    constants = initializers(model)
    return [value for value in model.graph.input if value.name not in constants]


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one data input. Raises InputError when there are none or several."""
    inputs = data_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise InputError(f"the model has {len(inputs)} inputs ({names}); wanted exactly one, the images.")
    return inputs[0]


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Dimensions: an int where fixed, a name ('?' if unnamed) where free; Paddle and others write -1 for the latter."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or "?") for d in dims]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Value name -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name -> the nodes that read it, in graph order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                readers.setdefault(name, []).append(node)
    return readers


def quantized_node(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The first node that works on or makes quantized values (functions, subgraphs included), or None in a float model."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop(0)
        if node.op_type.startswith("QLinear") or node.op_type in QUANTIZED_OPS:
            return node
        nodes[:0] = [inner for entry in node.attribute for graph in (entry.g, *entry.graphs) for inner in graph.node]
    return None


def attribute(node: onnx.NodeProto, name: str, default=None):
    """The attribute's Python value, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def read_by(node: onnx.NodeProto) -> list[str]:
    """Every outer value that a node reads, those read inside its subgraphs included."""
    names = [name for name in node.input if name]
    for entry in node.attribute:
        graphs = [entry.g] if entry.type == onnx.AttributeProto.GRAPH else list(entry.graphs)
        for graph in graphs:
            inner = {name for n in graph.node for name in n.output} | {t.name for t in graph.initializer}
            inner |= {value.name for value in graph.input}
            names += [name for n in graph.node for name in read_by(n) if name not in inner]
            names += [value.name for value in graph.output if value.name not in inner]
    return names


def names(model: onnx.ModelProto) -> set[str]:
    """Every value and node name in the graph."""
    taken = {name for node in model.graph.node for name in [node.name, *node.input, *node.output]}
    taken |= {tensor.name for tensor in model.graph.initializer}
    return taken | {value.name for value in [*model.graph.input, *model.graph.output]}
