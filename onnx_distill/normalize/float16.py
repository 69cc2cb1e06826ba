"""float16, bfloat16 and double become float32 everywhere inside; inputs and outputs keep their type through a Cast at the edge.

Casts between floats go. Finite doubles that float32 cannot hold become its largest. Must not fire where such types stand at the
edge alone: on inputs that nothing but a Cast to float32 reads, and outputs that a Cast makes for nobody else.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill import lookup
from onnx_distill.edit import rename_values
from onnx_distill.facts.logits import label
from onnx_distill.normalize.graph import Graph

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
FLOATS = (TensorProto.FLOAT, *OTHER_FLOATS)
TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "stash_type")


def rewrite(graph: Graph) -> list[str]:
    edges = [node for node in graph.nodes if _is_edge(node, graph)]
    inside = [node for node in graph.nodes if not any(node is edge for edge in edges)]
    idle = {id(node) for node in inside if _is_between_floats(node, graph)}
    done = [tensor.name for tensor in graph.model.graph.initializer if _convert_initializer(tensor, graph)]
    inputs, outputs = _names_inside(graph, edges)
    nodes = []
    for node in graph.nodes:
        made = graph.changed(node)
        is_edge = any(node is edge for edge in edges)
        changed = not is_edge and (_make_identity(made) if id(node) in idle else _convert(made))
        done += [label(node)] if changed else []
        rename_values(made, outputs if is_edge else {**inputs, **outputs})
        nodes.append(made)
    if not (done or inputs or outputs):
        return []
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.model.graph.output}
    before = [_cast(name, new, TensorProto.FLOAT, graph) for name, new in inputs.items()]
    after = [_cast(new, name, kinds[name], graph) for name, new in outputs.items()]
    graph.restore([*before, *nodes, *after])
    _declare(graph.model.graph.value_info)
    return list(dict.fromkeys([*inputs, *done, *outputs]))


def _is_edge(node: onnx.NodeProto, graph: Graph) -> bool:
    """A Cast from an input to float32, or to an output that nothing reads."""
    if node.op_type != "Cast":
        return False
    to, source, result = lookup.attribute(node, "to"), node.input[0], node.output[0]
    is_input = graph.producer(source) is None and not graph.is_constant(source)
    if is_input and to == TensorProto.FLOAT and graph.dtype(source) in OTHER_FLOATS:
        return True
    return result in graph.outputs and to in OTHER_FLOATS and not graph.readers(result)


def _is_between_floats(node: onnx.NodeProto, graph: Graph) -> bool:
    return node.op_type == "Cast" and lookup.attribute(node, "to") in FLOATS and graph.dtype(node.input[0]) in FLOATS


def _names_inside(graph: Graph, edges: list[onnx.NodeProto]) -> tuple[dict[str, str], dict[str, str]]:
    """What inputs and outputs of another type are called inside, as float32."""
    inputs, outputs = {}, {}
    for value in lookup.data_inputs(graph.model):
        readers = [node for node in graph.readers(value.name) if not any(node is edge for edge in edges)]
        if value.type.tensor_type.elem_type in OTHER_FLOATS and readers:
            inputs[value.name] = graph.fresh(f"{value.name}/float32")
    for value in graph.model.graph.output:
        made_by = graph.producer(value.name)
        is_inside = made_by is not None and not any(made_by is edge for edge in edges)
        if value.type.tensor_type.elem_type in OTHER_FLOATS and is_inside:
            outputs[value.name] = graph.fresh(f"{value.name}/float32")
    return inputs, outputs


def _cast(source: str, result: str, to: int, graph: Graph) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [result], name=graph.fresh(f"{result}/Cast"), to=to)


def _convert_initializer(tensor: onnx.TensorProto, graph: Graph) -> bool:
    if tensor.data_type not in OTHER_FLOATS:
        return False
    graph.put(tensor.name, as_float32(np.asarray(graph.constant(tensor.name))))
    return True


def as_float32(array: np.ndarray) -> np.ndarray:
    most = np.finfo(np.float32).max
    if array.dtype == np.float64:
        array = np.where(np.isfinite(array), np.clip(array, -most, most), array)
    return array.astype(np.float32)


def _make_identity(node: onnx.NodeProto) -> bool:
    node.op_type = "Identity"
    del node.attribute[:]
    return True


def _convert(node: onnx.NodeProto) -> bool:
    """Tensors and types that the node holds, in its subgraphs too, become float32, in place; whether there were any."""
    found = [_convert_attribute(entry) for entry in node.attribute]
    return any(found)


def _convert_attribute(entry: onnx.AttributeProto) -> bool:
    if entry.name in TYPE_ATTRIBUTES and entry.i in OTHER_FLOATS:
        entry.i = TensorProto.FLOAT
        return True
    if entry.type == onnx.AttributeProto.TENSOR:
        return _convert_tensor(entry.t)
    found = [_convert_graph(graph) for graph in (entry.g, *entry.graphs)]
    return any(found)


def _convert_tensor(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in OTHER_FLOATS:
        return False
    tensor.CopyFrom(numpy_helper.from_array(as_float32(lookup.array(tensor)), tensor.name))
    return True


def _convert_graph(graph: onnx.GraphProto) -> bool:
    found = [_convert(node) for node in graph.node] + [_convert_tensor(tensor) for tensor in graph.initializer]
    _declare([*graph.input, *graph.output, *graph.value_info])
    return any(found)


def _declare(values) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
